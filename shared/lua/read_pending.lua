-- READ PENDING: read a further chunk of the pending results as the current writer, and renew the
-- lease.
--
-- KEYS[1] writer_lease
-- KEYS[2] pending_results
-- ARGV[1] token of the writer
-- ARGV[2] cursor
-- ARGV[3] number of results in a chunk
-- ARGV[4] TTL of the lease in milliseconds
-- Returns: nil if the lease was lost, else {next cursor, {user, entry, ...}}.
-- Promise: only the current writer reads pending results.
-- Failing trace: replaced_publisher_reads_no_pending_results
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
