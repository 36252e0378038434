-- SUBMIT RESULTS: submit results by compare-and-set of the read version.
--
-- KEYS[1] dirty
-- KEYS[2] pending_results
-- KEYS[3] dirty_since:event
-- KEYS[4] wake:live
-- KEYS[5] wake:bulk
-- KEYS[6] active_reads
-- KEYS[7] suspect_users
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
local dirty = KEYS[1]
local pending_results = KEYS[2]
local dirty_by_event = KEYS[3]
local new_version = ARGV[1]
local replies = {}
local wake_live = false
local wake_bulk = false
for i = 3, #ARGV, 5 do
  local user = ARGV[i]
  local read_version = ARGV[i + 2]
  local result = ARGV[i + 3]
  local tokens = redis.call('HGET', dirty, user)
  if not tokens and ARGV[i + 4] == '1' then
    -- Its image copy may have replaced a newer one, or no row names it: a suspect user.
    redis.call('SADD', KEYS[7], user)
    redis.call('HSET', dirty, user, new_version .. '|' .. new_version)
    redis.call('ZADD', dirty_by_event, 'NX', redis.call('TIME')[1], user)
    replies[#replies + 1] = 'refused'
  elseif not tokens then
    replies[#replies + 1] = 'not_dirty'
  elseif string.match(tokens, '|(.*)$') ~= read_version then
    -- Likewise. A new change version is needed: with the one just read, BEGIN READ would skip the
    -- user.
    if ARGV[i + 4] == '1' then
      redis.call('SADD', KEYS[7], user)
      redis.call('HSET', dirty, user, new_version .. '|' .. string.match(tokens, '|(.*)$'))
    end
    replies[#replies + 1] = 'refused'
  else
    redis.call('HSET', dirty, user, string.match(tokens, '^(.-)|') .. '|' .. new_version)
    redis.call('HSET', pending_results, user, ARGV[i + 1] .. '|' .. new_version .. '|' .. result)
    replies[#replies + 1] = 'accepted'
    if redis.call('ZSCORE', dirty_by_event, user) then wake_live = true else wake_bulk = true end
  end
end
if ARGV[2] ~= '' then redis.call('HDEL', KEYS[6], ARGV[2]) end
-- Pushed only if empty, so wake-ups do not accumulate. The watchdog, which ticks every 15 s,
-- replaces one that a dead publisher took.
if wake_live and redis.call('LLEN', KEYS[4]) == 0 then redis.call('RPUSH', KEYS[4], '1') end
if wake_bulk and redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end
return replies
