-- RELEASE WRITER: release the writer lease without recording a publish.
--
-- KEYS[1] writer_lease
-- ARGV[1] token of the writer
-- Returns: nothing.
-- Promise: after an expired lease, that of the next writer is left alone.
-- Failing trace: test_publish_queue_renews_and_releases_only_its_own_lease
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
