-- BEGIN READ: return the version tokens of users before their files are read. Changes no token.
--
-- KEYS[1] change_versions
-- KEYS[2] read_versions
-- KEYS[3] pending_results
-- KEYS[4] pending_change_versions
-- KEYS[5] active_reads
-- KEYS[6] catalog_version
-- KEYS[7] suspect_users
-- ARGV[1] read ID ('' for none)
-- ARGV[2] the users of the read, as JSON
-- ARGV[3..] the users, at least one
-- Returns: the version of the bundle catalog; the suspect users, which may have stray image copies;
--   and per user, in a list each, the change version, the read version, and the pending result
--   (false without one). The change version is false if there is nothing to read: the user is not
--   dirty, or its pending result was read after its last mark and only has to be published.
-- Promise: a user that was marked since its last accepted read is read, and no other user.
-- Failing trace: test_user_states_begin_read_skips_user_read_since_mark
local change_versions = redis.call('HMGET', KEYS[1], unpack(ARGV, 3))
local read_versions = redis.call('HMGET', KEYS[2], unpack(ARGV, 3))
local pending = redis.call('HMGET', KEYS[4], unpack(ARGV, 3)) -- change versions, then results
local has_suspects = redis.call('EXISTS', KEYS[7]) == 1
local suspects = {}
local any_dirty = false
for i = 3, #ARGV do
  local n = i - 2
  if change_versions[n] and change_versions[n] ~= pending[n] then
    any_dirty = true
    pending[n] = pending[n] and redis.call('HGET', KEYS[3], ARGV[i])
    if has_suspects and redis.call('SISMEMBER', KEYS[7], ARGV[i]) == 1 then
      suspects[#suspects + 1] = ARGV[i]
    end
  else
    change_versions[n] = false
  end
end
-- What remains of this record after a kill or a hang isolates its users (see ISOLATE).
if any_dirty and ARGV[1] ~= '' then redis.call('HSET', KEYS[5], ARGV[1], ARGV[2]) end
return {redis.call('HGET', KEYS[6], 'version'), suspects, change_versions, read_versions, pending}
