-- START REBUILD: move the queued rebuild to running, unless one runs.
--
-- KEYS[1] rebuild_queued
-- KEYS[2] rebuild_running
-- KEYS[3] rebuild:<ID>
-- ARGV[1] ID of the rebuild to start
-- ARGV[2] now (Unix seconds)
-- Returns: ID of the running rebuild, false if none runs.
-- Promise: at most one rebuild runs, and one that has ended does not start again.
-- Failing trace: test_rebuilds_allow_one_running_and_one_queued
local running_id = redis.call('GET', KEYS[2])
if running_id then return running_id end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'state', 'running', 'started_at', ARGV[2])
return ARGV[1]
