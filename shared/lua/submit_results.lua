-- SUBMIT RESULTS: submit results by compare-and-set of the read version.
--
-- KEYS[1] change_versions
-- KEYS[2] read_versions
-- KEYS[3] pending_results
-- KEYS[4] pending_change_versions
-- KEYS[5] dirty_since:event
-- KEYS[6] wake:live
-- KEYS[7] wake:bulk
-- KEYS[8] active_reads
-- KEYS[9] suspect_users
-- ARGV[1] the new read version
-- ARGV[2] ID of the read that ends ('' for none)
-- ARGV[3..] per user: user, change version and read version before its files were read, result,
--   '1' if this read has copied an image of the user
-- Returns: per user 'accepted', 'refused' (the read version has changed: read once more) or
--   'not_dirty' (no longer dirty).
-- Promise: the read of an accepted result began after the result before it was accepted.
-- Failing trace: slow_reader_does_not_replace_newer_result,
--   result_from_before_redis_was_emptied_is_refused
--
-- The read version is compared, not the change version. A mark during the read leaves the user
-- dirty after the publish, so it is read again anyway. But a read that began before the last
-- accepted one may be older, and must not replace it.
local new_version = ARGV[1]
local replies = {}
local users = {}
for i = 3, #ARGV, 5 do users[#users + 1] = ARGV[i] end
if #users > 0 then
  local change_versions = redis.call('HMGET', KEYS[1], unpack(users))
  local read_versions = redis.call('HMGET', KEYS[2], unpack(users))
  local marked_by_event = redis.call('ZMSCORE', KEYS[5], unpack(users))
  local new_read_versions = {}
  local results = {}
  local pending_change_versions = {}
  local wake_live = false
  local wake_bulk = false
  for n, user in ipairs(users) do
    local i = 5 * n - 2
    local has_copied = ARGV[i + 4] == '1'
    if change_versions[n] and read_versions[n] == ARGV[i + 2] then
      local k = #results
      new_read_versions[k + 1], new_read_versions[k + 2] = user, new_version
      results[k + 1], results[k + 2] = user, ARGV[i + 3]
      pending_change_versions[k + 1], pending_change_versions[k + 2] = user, ARGV[i + 1]
      if marked_by_event[n] then wake_live = true else wake_bulk = true end
      replies[n] = 'accepted'
    elseif change_versions[n] or has_copied then
      if has_copied then
        -- Its image copy may have replaced a newer one, or no row names it: a suspect user. A new
        -- change version is needed: with the one just read, BEGIN READ would skip the user.
        redis.call('SADD', KEYS[9], user)
        redis.call('HSET', KEYS[1], user, new_version)
        if not change_versions[n] then
          redis.call('HSET', KEYS[2], user, new_version)
          redis.call('ZADD', KEYS[5], 'NX', redis.call('TIME')[1], user)
        end
      end
      replies[n] = 'refused'
    else
      replies[n] = 'not_dirty'
    end
  end
  if #results > 0 then
    redis.call('HSET', KEYS[2], unpack(new_read_versions))
    redis.call('HSET', KEYS[3], unpack(results))
    redis.call('HSET', KEYS[4], unpack(pending_change_versions))
  end
  -- Pushed only if empty, so wake-ups do not accumulate. The watchdog, which ticks every 15 s,
  -- replaces one that a dead publisher took.
  if wake_live and redis.call('LLEN', KEYS[6]) == 0 then redis.call('RPUSH', KEYS[6], '1') end
  if wake_bulk and redis.call('LLEN', KEYS[7]) == 0 then redis.call('RPUSH', KEYS[7], '1') end
end
if ARGV[2] ~= '' then redis.call('HDEL', KEYS[8], ARGV[2]) end
return replies
