-- NOTE: return the version tokens of users before their files are read. Changes no token.
-- KEYS  1 dirty  2 staged  3 readings  4 shelf  5 doubtful
-- ARGV  1 read token ('' for none)  2 its users, as JSON  then the users
-- Returns the version of the bundle catalog; the suspect users, which may have stray image copies;
-- and per user 'mark|slot', followed by '|' and its pending outcome if there is one. False instead
-- if there is nothing to read: the user is not dirty, or its pending result was read after its last
-- mark and only has to be published.
local doubtful, any = {}, false
local notes, doubts = {redis.call('GET', KEYS[4]), doubtful}, redis.call('EXISTS', KEYS[5]) == 1
for i = 3, #ARGV do
  local tokens, staged = redis.call('HGET', KEYS[1], ARGV[i]), redis.call('HGET', KEYS[2], ARGV[i])
  if tokens and staged then
    local is_read = string.match(tokens, '^(.-)|') == string.match(staged, '^(.-)|')
    tokens = not is_read and tokens .. '|' .. string.match(staged, '^.-|.-|(.*)$')
  end
  notes[#notes + 1] = tokens
  any = any or tokens
  if doubts and tokens and redis.call('SISMEMBER', KEYS[5], ARGV[i]) == 1 then doubtful[#doubtful + 1] = ARGV[i] end
end
-- What remains of this record after a kill or a hang isolates its users (see APART).
if any and ARGV[1] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[2]) end
return notes
