-- COMMIT PUBLISH: as the current writer, record what was published and make its users clean.
--
-- KEYS[1] writer_lease
-- KEYS[2] last_publish
-- KEYS[3] change_versions
-- KEYS[4] read_versions
-- KEYS[5] pending_results
-- KEYS[6] pending_change_versions
-- KEYS[7] trust_state
-- KEYS[8] loss_signals
-- KEYS[9] counters
-- KEYS[10] isolated_users
-- KEYS[11] prefix of the records of isolated users
-- KEYS[12..] dirty_since:<cause>
-- ARGV[1] token of the writer
-- ARGV[2] output ETag
-- ARGV[3] rejects ETag
-- ARGV[4] now (Unix seconds)
-- ARGV[5] number of rows
-- ARGV[6] '1' in the last chunk
-- ARGV[7] channel of publish notifications
-- ARGV[8..] per user: user, change version and read version of the published result, '1' if it was
--   read ('' if it was quarantined: a reject without a read)
-- Returns: -1 if the lease was lost, else the number of results still pending.
-- Promise: a user becomes clean only if it was neither marked nor read again since the published
--   result, and only by the current writer.
-- Failing trace: change_after_read_is_read_again, stalled_publisher_with_matching_etag_signals_loss
--
-- A writer without the lease may have overwritten a newer publish, so that is a loss signal.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  redis.call('DEL', KEYS[7])
  if redis.call('SADD', KEYS[8], 'publisher_replaced') == 1 then
    redis.call('HINCRBY', KEYS[9], 'loss_signal:publisher_replaced', 1)
  end
  return -1
end
redis.call('HSET', KEYS[2], 'writer_token', ARGV[1], 'output_etag', ARGV[2],
  'rejects_etag', ARGV[3], 'time', ARGV[4], 'rows', ARGV[5])
local users = {}
for i = 8, #ARGV, 4 do users[#users + 1] = ARGV[i] end
if #users > 0 then
  local change_versions = redis.call('HMGET', KEYS[3], unpack(users))
  local read_versions = redis.call('HMGET', KEYS[4], unpack(users))
  local has_isolated = redis.call('EXISTS', KEYS[10]) == 1
  local published = {}
  local clean = {}
  for n, user in ipairs(users) do
    local i = 4 + 4 * n
    -- A later result has another read version: it stays pending.
    local is_last_read = read_versions[n] == ARGV[i + 2]
    if is_last_read then published[#published + 1] = user end
    if is_last_read and change_versions[n] == ARGV[i + 1] then
      clean[#clean + 1] = user
      -- Its isolation ends.
      if has_isolated and ARGV[i + 3] == '1' and redis.call('SREM', KEYS[10], user) == 1 then
        redis.call('DEL', KEYS[11] .. user)
      end
    else -- marked or read again since: still dirty, but not overdue, so its waiting time restarts
      for k = 12, #KEYS do redis.call('ZADD', KEYS[k], 'XX', ARGV[4], user) end
    end
  end
  if #published > 0 then
    redis.call('HDEL', KEYS[5], unpack(published))
    redis.call('HDEL', KEYS[6], unpack(published))
  end
  if #clean > 0 then
    redis.call('HDEL', KEYS[3], unpack(clean))
    redis.call('HDEL', KEYS[4], unpack(clean))
    for k = 12, #KEYS do redis.call('ZREM', KEYS[k], unpack(clean)) end
  end
end
local still_pending = redis.call('HLEN', KEYS[5])
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[7], ARGV[2])
end
return still_pending
