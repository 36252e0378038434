-- ALONE: the attempts at one user who is to be read alone.
--
-- KEYS  1 alone: user -> 'attempts|attempt|pardon|etag': how often a reading of the version `etag` was begun that did
--       not come to its end; the token of the one that may be under way ('' if none is); '1' if one more is granted
-- ARGV  1 the user  2 what is asked:
--       'begin', 3 a token for the attempt, 4 the ETag that the CSV has now, 5 most attempts
--         returns 'unknown' (not to be read alone any more), 'busy' (somebody reads, or died and was not noticed yet),
--         'guilty' (as many attempts as there may be) or 'read', and then the attempt counts, unless it is taken back
--       'failed', 3 its token: the attempt came to its end without a reading, and does not count
--       'over', 3 its token: the attempt did not come to its end, and is surely not under way any more
--       'done': the user was read
--       'remember', 3 the ETag of the version that was found guilty, 4 most attempts: that was so, if nothing is known
--       'pardon', 3 and 4 the same: grant one more attempt at it
local alone, user, asked = KEYS[1], ARGV[1], ARGV[2]
local entry = redis.call('HGET', alone, user)
if not entry and (asked == 'pardon' or asked == 'remember') then entry = ARGV[4] .. '|||' .. ARGV[3] end
if not entry then return 'unknown' end
local attempts, attempt, pardon, etag = string.match(entry, '^(%d+)|(%x*)|(1?)|(.*)$')
attempts = tonumber(attempts)

local function keep()
  redis.call('HSET', alone, user, attempts .. '|' .. attempt .. '|' .. pardon .. '|' .. etag)
end

if asked == 'done' then
  redis.call('HDEL', alone, user)
elseif asked == 'failed' or asked == 'over' then
  if attempt ~= ARGV[3] then return 'unknown' end
  attempt = ''
  if asked == 'failed' then attempts = attempts - 1 end
  keep()
elseif asked == 'pardon' then
  if etag == ARGV[3] and attempts >= tonumber(ARGV[4]) then pardon = '1' end
  keep()
elseif asked == 'remember' then
  keep()
else
  if attempt ~= '' then return 'busy' end
  if etag ~= ARGV[4] then
    attempts, pardon, etag = 0, '', ARGV[4] -- another version of the file
  end
  if attempts >= tonumber(ARGV[5]) and pardon == '' then
    keep()
    return 'guilty'
  end
  attempts, attempt, pardon = attempts + 1, ARGV[3], ''
  keep()
  return 'read'
end
return 'ok'
