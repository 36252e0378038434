-- READ PENDING: read a further chunk of the pending results as the current writer, and renew the
-- lease.
-- KEYS  1 writer_lease  2 pending_results        ARGV  1 token  2 cursor  3 count  4 lease in ms
-- Returns nil if the lease was lost, else {next cursor, {user, entry, ...}}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
