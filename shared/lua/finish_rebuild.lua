-- FINISH REBUILD: set the running rebuild to done, if all its users are enqueued and published.
--
-- KEYS[1] rebuild_running
-- KEYS[2] dirty_since:rebuild
-- KEYS[3] prefix of the records of rebuilds
-- ARGV[1] now (Unix seconds)
-- Returns: ID of the rebuild, false if none is done.
-- Promise: a rebuild is done only when no user can be added and none is left.
-- Failing trace: test_rebuild_resumes_after_interrupted_enqueueing
local running_id = redis.call('GET', KEYS[1])
if not running_id then return false end
if redis.call('HEXISTS', KEYS[3] .. running_id, 'enqueued') == 0 then return false end
if redis.call('ZCARD', KEYS[2]) > 0 then return false end
redis.call('HSET', KEYS[3] .. running_id, 'state', 'done', 'finished_at', ARGV[1])
redis.call('DEL', KEYS[1])
return running_id
