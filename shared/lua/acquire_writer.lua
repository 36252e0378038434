-- ACQUIRE WRITER: acquire the writer lease, and read the first chunk of the pending results.
--
-- KEYS[1] writer_lease
-- KEYS[2] last_publish
-- KEYS[3] pending_results
-- KEYS[4] pending_change_versions
-- KEYS[5] read_versions
-- KEYS[6] wake:live
-- KEYS[7] wake:bulk
-- KEYS[8] silent_drift
-- ARGV[1] token of the writer
-- ARGV[2] TTL of the lease in milliseconds
-- ARGV[3] number of results in a chunk
-- Returns: nil if another writer holds the lease, else {output ETag, rejects ETag, has silent drift,
--   next cursor, {user, result, ...}, {change version, ...}, {read version, ...}}: the ETags last
--   recorded as published, 1 if `silent_drift` has users, and the chunk with the tokens per user.
-- Promise: one publisher at a time has the lease.
-- Failing trace: two_publishers_do_not_alternate_in_one_write
local function read_tokens(entries) -- `entries`: {user, result, ...}
  local users = {}
  for i = 1, #entries, 2 do users[#users + 1] = entries[i] end
  if #users == 0 then return {}, {} end
  return redis.call('HMGET', KEYS[4], unpack(users)), redis.call('HMGET', KEYS[5], unpack(users))
end

if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return nil end
-- The publisher counts what a batch leaves. A later result sends a new wake-up.
redis.call('DEL', KEYS[6], KEYS[7])
local last_etags = redis.call('HMGET', KEYS[2], 'output_etag', 'rejects_etag')
local has_silent_drift = redis.call('EXISTS', KEYS[8])
local chunk = redis.call('HSCAN', KEYS[3], '0', 'COUNT', ARGV[3])
return {last_etags[1], last_etags[2], has_silent_drift, chunk[1], chunk[2], read_tokens(chunk[2])}
