-- ALONE: the attempts to read one user in isolation.
--
-- KEYS  1 alone: user -> 'attempts|attempt|pardon|etag': number of attempts at the file version
--       `etag` that began and did not end normally; token of the attempt that may be running
--       ('' if none); '1' if one more attempt is granted
-- ARGV  1 user  2 command:
--       'begin', 3 token of the attempt, 4 current ETag of the CSV, 5 maximum number of attempts
--         Returns 'unknown' (not isolated any more), 'busy' (an attempt is running, or its worker
--         died and the watchdog has not detected it yet), 'guilty' (no attempts left) or 'read'.
--         With 'read' the attempt counts, unless it is refunded.
--       'failed', 3 token: refund the attempt, which ended without a result for a reason unrelated
--         to the file
--       'over', 3 token: the attempt did not end normally, and cannot be running any more
--       'done': the user was read, so end its isolation
--       'remember', 3 ETag of the quarantined version, 4 maximum number of attempts: restore the
--         quarantine of that version, unless there is an entry
--       'pardon', 3 and 4 as above: grant one more attempt at that version
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
    attempts, pardon, etag = 0, '', ARGV[4] -- a new file version has its own retry budget
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
