-- BEGIN: become the one writer, for the lease.
-- KEYS  1 writer  2 published  3 wake:live  4 wake:bulk        ARGV  1 token  2 lease in ms
-- Returns nil if another writer's lease runs, else {etag, rej_etag} of what was last recorded as published.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return nil end
redis.call('DEL', KEYS[3], KEYS[4])
return redis.call('HMGET', KEYS[2], 'etag', 'rej_etag')
