-- READ ATTEMPT: begin, end or grant an attempt to read one user in isolation.
--
-- KEYS[1] isolated_users
-- KEYS[2] isolated:<user>, with the fields `etag` (the file version), `attempt_count` (attempts at it
--   that began and did not end normally), `attempt_id` (of the attempt that may be running) and
--   `retry_granted` (one more attempt is granted)
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
local user = ARGV[1]
local command = ARGV[2]
if redis.call('SISMEMBER', KEYS[1], user) == 0 then
  if command ~= 'grant_retry' and command ~= 'restore' then return 'not_isolated' end
  redis.call('SADD', KEYS[1], user)
  redis.call('HSET', KEYS[2], 'etag', ARGV[3], 'attempt_count', ARGV[4])
end
local attempt_id = redis.call('HGET', KEYS[2], 'attempt_id')
local etag = redis.call('HGET', KEYS[2], 'etag')
local attempt_count = tonumber(redis.call('HGET', KEYS[2], 'attempt_count') or 0)

if command == 'clear' then
  redis.call('SREM', KEYS[1], user)
  redis.call('DEL', KEYS[2])
elseif command == 'refund' or command == 'expire' then
  if attempt_id ~= ARGV[3] then return 'not_isolated' end
  redis.call('HDEL', KEYS[2], 'attempt_id')
  if command == 'refund' then redis.call('HINCRBY', KEYS[2], 'attempt_count', -1) end
elseif command == 'grant_retry' then
  if etag == ARGV[3] and attempt_count >= tonumber(ARGV[4]) then
    redis.call('HSET', KEYS[2], 'retry_granted', '1')
  end
elseif command == 'begin' then
  if attempt_id then return 'busy' end
  if etag ~= ARGV[4] then
    -- A new file version has its own retry budget.
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[2], 'etag', ARGV[4])
    attempt_count = 0
  end
  -- HDEL consumes the granted attempt.
  local is_granted = redis.call('HDEL', KEYS[2], 'retry_granted') == 1
  if attempt_count >= tonumber(ARGV[5]) and not is_granted then return 'exhausted' end
  redis.call('HSET', KEYS[2], 'attempt_count', attempt_count + 1, 'attempt_id', ARGV[3])
  return 'read'
end
return 'ok'
