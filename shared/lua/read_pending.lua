-- READ PENDING: read a further chunk of the pending results as the current writer, and renew the
-- lease.
--
-- KEYS[1] writer_lease
-- KEYS[2] pending_results
-- KEYS[3] pending_change_versions
-- KEYS[4] read_versions
-- ARGV[1] token of the writer
-- ARGV[2] cursor
-- ARGV[3] number of results in a chunk
-- ARGV[4] TTL of the lease in milliseconds
-- Returns: nil if the lease was lost, else {next cursor, {user, result, ...}, {change version, ...},
--   {read version, ...}}.
-- Promise: only the current writer reads pending results.
-- Failing trace: replaced_publisher_reads_no_pending_results
local function read_tokens(entries) -- `entries`: {user, result, ...}
  local users = {}
  for i = 1, #entries, 2 do users[#users + 1] = entries[i] end
  if #users == 0 then return {}, {} end
  return redis.call('HMGET', KEYS[3], unpack(users)), redis.call('HMGET', KEYS[4], unpack(users))
end

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local chunk = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
return {chunk[1], chunk[2], read_tokens(chunk[2])}
