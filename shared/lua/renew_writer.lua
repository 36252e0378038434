-- RENEW WRITER: renew the writer lease.
--
-- KEYS[1] writer_lease
-- ARGV[1] token of the writer
-- ARGV[2] TTL of the lease in milliseconds
-- Returns: 1, or 0 if the lease was lost.
-- Promise: the lease of another writer is not renewed.
-- Failing trace: test_publish_queue_renews_and_releases_only_its_own_lease
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
