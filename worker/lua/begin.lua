-- BEGIN: acquire the writer lease, and read the first chunk of the pending results.
-- KEYS  1 writer  2 published  3 staged  4 wake:live  5 wake:bulk  6 unexplained  7 alone
-- ARGV  1 token  2 lease in ms  3 count
-- Returns nil if another writer holds the lease, else
-- {etag, rej_etag, watched, next cursor, {user, entry, ...}}: the ETags last recorded as published,
-- the number of existing keys among `unexplained` and `alone`, and the chunk.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return nil end
-- This publish covers all results staged so far. A later one sends a new wake-up.
redis.call('DEL', KEYS[4], KEYS[5])
local recorded = redis.call('HMGET', KEYS[2], 'etag', 'rej_etag')
local watched = redis.call('EXISTS', KEYS[6], KEYS[7])
local chunk = redis.call('HSCAN', KEYS[3], '0', 'COUNT', ARGV[3])
return {recorded[1], recorded[2], watched, chunk[1], chunk[2]}
