-- FAIL REBUILD: set the running rebuild to failed.
--
-- KEYS[1] rebuild_running
-- KEYS[2] rebuild:<ID>
-- ARGV[1] ID of the rebuild that failed
-- ARGV[2] now (Unix seconds)
-- ARGV[3] reason
-- Returns: 1 if it failed, 0 if it does not run.
-- Promise: a late failure does not end the next rebuild.
-- Failing trace: test_rebuild_that_fails_reports_reason_and_allows_next
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'state', 'failed', 'finished_at', ARGV[2], 'error', ARGV[3])
redis.call('DEL', KEYS[1])
return 1
