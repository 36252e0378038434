-- SEND HEARTBEAT: record that an API process lives, and which check of output.csv it completed.
--
-- KEYS[1] api:processes
-- KEYS[2] api:polls
-- ARGV[1] name of the process
-- ARGV[2] when its last complete check began (Redis time)
-- Returns: the time of Redis, which is recorded as that of the heartbeat.
-- Promise: both times are of the clock of Redis, so no two clocks are compared.
-- Failing trace: test_process_registry_removes_process_without_heartbeat
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1], now)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return now
