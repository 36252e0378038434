-- BEGIN READ: return the version tokens of users before their files are read. Changes no token.
--
-- KEYS[1] dirty
-- KEYS[2] pending_results
-- KEYS[3] active_reads
-- KEYS[4] catalog_version
-- KEYS[5] suspect_users
-- ARGV[1] read ID ('' for none)
-- ARGV[2] the users of the read, as JSON
-- ARGV[3..] the users
-- Returns: the version of the bundle catalog; the suspect users, which may have stray image copies;
--   and per user 'change version|read version', followed by '|' and its pending result if there is
--   one. False instead if there is nothing to read: the user is not dirty, or its pending result was
--   read after its last mark and only has to be published.
-- Promise: a user that was marked since its last accepted read is read, and no other user.
-- Failing trace: test_user_states_begin_read_skips_user_read_since_mark
local suspects = {}
local any_dirty = false
local reply = {redis.call('GET', KEYS[4]), suspects}
local has_suspects = redis.call('EXISTS', KEYS[5]) == 1
for i = 3, #ARGV do
  local tokens = redis.call('HGET', KEYS[1], ARGV[i])
  local pending = redis.call('HGET', KEYS[2], ARGV[i])
  if tokens and pending then
    local is_up_to_date = string.match(tokens, '^(.-)|') == string.match(pending, '^(.-)|')
    tokens = not is_up_to_date and tokens .. '|' .. string.match(pending, '^.-|.-|(.*)$')
  end
  reply[#reply + 1] = tokens
  any_dirty = any_dirty or tokens
  if has_suspects and tokens and redis.call('SISMEMBER', KEYS[5], ARGV[i]) == 1 then
    suspects[#suspects + 1] = ARGV[i]
  end
end
-- What remains of this record after a kill or a hang isolates its users (see ISOLATE).
if any_dirty and ARGV[1] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[2]) end
return reply
