-- READ ATTEMPT: the attempts to read one user in isolation.
--
-- KEYS  1 isolated_users: user -> 'attempt_count|attempt_id|retry|etag': number of attempts at the
--       file version `etag` that began and did not end normally; ID of the attempt that may be
--       running ('' if none); '1' if one more attempt is granted
-- ARGV  1 user  2 command:
--       'begin', 3 attempt ID, 4 current ETag of the CSV, 5 maximum number of attempts
--         Returns 'not_isolated', 'busy' (an attempt is running, or its worker died and the
--         watchdog has not detected it yet), 'exhausted' (no attempts left) or 'read'.
--         With 'read' the attempt counts, unless it is refunded.
--       'refund', 3 attempt ID: refund the attempt, which ended without a result for a reason
--         unrelated to the file
--       'expire', 3 attempt ID: the attempt did not end normally, and cannot be running any more
--       'clear': the user was read, so end its isolation
--       'restore', 3 ETag of the quarantined version, 4 maximum number of attempts: restore the
--         quarantine of that version, unless there is an entry
--       'grant_retry', 3 and 4 as above: grant one more attempt at that version
local isolated_users = KEYS[1]
local user = ARGV[1]
local command = ARGV[2]
local entry = redis.call('HGET', isolated_users, user)
if not entry and (command == 'grant_retry' or command == 'restore') then
  entry = ARGV[4] .. '|||' .. ARGV[3]
end
if not entry then return 'not_isolated' end
local attempt_count, attempt_id, retry_granted, etag =
  string.match(entry, '^(%d+)|(%x*)|(1?)|(.*)$')
attempt_count = tonumber(attempt_count)

local function save()
  local fields = attempt_count .. '|' .. attempt_id .. '|' .. retry_granted .. '|' .. etag
  redis.call('HSET', isolated_users, user, fields)
end

if command == 'clear' then
  redis.call('HDEL', isolated_users, user)
elseif command == 'refund' or command == 'expire' then
  if attempt_id ~= ARGV[3] then return 'not_isolated' end
  attempt_id = ''
  if command == 'refund' then attempt_count = attempt_count - 1 end
  save()
elseif command == 'grant_retry' then
  if etag == ARGV[3] and attempt_count >= tonumber(ARGV[4]) then retry_granted = '1' end
  save()
elseif command == 'restore' then
  save()
else
  if attempt_id ~= '' then return 'busy' end
  if etag ~= ARGV[4] then
    -- A new file version has its own retry budget.
    attempt_count = 0
    retry_granted = ''
    etag = ARGV[4]
  end
  if attempt_count >= tonumber(ARGV[5]) and retry_granted == '' then
    save()
    return 'exhausted'
  end
  attempt_count, attempt_id, retry_granted = attempt_count + 1, ARGV[3], ''
  save()
  return 'read'
end
return 'ok'
