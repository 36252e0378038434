-- REQUEST REBUILD: queue a rebuild unless one is queued.
--
-- KEYS[1] rebuild_queued
-- KEYS[2] rebuild:<new ID>
-- ARGV[1] the new ID
-- ARGV[2] now (Unix seconds)
-- ARGV[3] TTL of the record in seconds
-- Returns: {ID of the queued rebuild, 1 if it is new}.
-- Promise: at most one rebuild is queued.
-- Failing trace: test_rebuilds_allow_one_running_and_one_queued
local queued_id = redis.call('GET', KEYS[1])
if queued_id then return {queued_id, 0} end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'queued', 'queued_at', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return {ARGV[1], 1}
