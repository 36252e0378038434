-- READ ATTEMPT: begin, end or grant an attempt to read one user in isolation.
--
-- KEYS[1] isolated_users: user -> 'attempt_count|attempt_id|retry|etag': number of attempts at the
--   file version `etag` that began and did not end normally; ID of the attempt that may be running
--   ('' if none); '1' if one more attempt is granted
-- ARGV[1] user
-- ARGV[2] command:
--   'begin': begin an attempt. It counts unless it is refunded
--   'refund': refund the attempt, which ended without a result for a reason unrelated to the file
--   'expire': the attempt did not end normally, and cannot be running any more
--   'clear': the user was read, so end its isolation
--   'restore': restore the quarantine of a file version, unless there is an entry
--   'grant_retry': grant one more attempt at a quarantined file version
-- ARGV[3] begin, refund, expire: attempt ID; restore, grant_retry: ETag of the quarantined version
-- ARGV[4] begin: current ETag of the CSV; restore, grant_retry: maximum number of attempts
-- ARGV[5] begin: maximum number of attempts
-- Returns: 'not_isolated', or of the command 'begin' 'read', 'busy' (an attempt is running, or its
--   worker died and the watchdog has not detected it yet) or 'exhausted' (no attempts left), else
--   'ok'.
-- Promise: one attempt at a time, and three of one file version that kill their worker.
-- Failing trace: test_read_attempts_allow_one_attempt_at_a_time,
--   test_isolated_reads_quarantine_poison_file_and_publish_others
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
