-- COMMIT PUBLISH: as the current writer, record what was published and make its users clean.
--
-- KEYS[1] writer_lease
-- KEYS[2] last_publish
-- KEYS[3] pending_results
-- KEYS[4] dirty
-- KEYS[5] trust_state
-- KEYS[6] loss_signals
-- KEYS[7] counters
-- KEYS[8] isolated_users
-- KEYS[9..] dirty_since:<cause>
-- ARGV[1] token of the writer
-- ARGV[2] output ETag
-- ARGV[3] rejects ETag
-- ARGV[4] now (Unix seconds)
-- ARGV[5] number of rows
-- ARGV[6] '1' in the last chunk
-- ARGV[7] channel of publish notifications
-- ARGV[8..] per user: user, 'change version|read version', '1' if it was read ('' if it was
--   quarantined: a reject without a read)
-- Returns: -1 if the lease was lost, else the number of results still pending.
-- Promise: a user becomes clean only if it was neither marked nor read again since the published
--   result, and only by the current writer.
-- Failing trace: change_after_read_is_read_again, stalled_publisher_with_matching_etag_signals_loss
--
-- A writer without the lease may have overwritten a newer publish, so that is a loss signal.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  redis.call('DEL', KEYS[5])
  if redis.call('SADD', KEYS[6], 'publisher_replaced') == 1 then
    redis.call('HINCRBY', KEYS[7], 'loss_signal:publisher_replaced', 1)
  end
  return -1
end
redis.call('HSET', KEYS[2], 'writer_token', ARGV[1], 'output_etag', ARGV[2],
  'rejects_etag', ARGV[3], 'time', ARGV[4], 'rows', ARGV[5])
for i = 8, #ARGV, 3 do
  local user = ARGV[i]
  local tokens = ARGV[i + 1]
  local was_read = ARGV[i + 2] == '1'
  local pending = redis.call('HGET', KEYS[3], user)
  if pending and string.sub(pending, 1, #tokens + 1) == tokens .. '|' then
    redis.call('HDEL', KEYS[3], user)
  end
  if redis.call('HGET', KEYS[4], user) == tokens then
    redis.call('HDEL', KEYS[4], user)
    for k = 9, #KEYS do redis.call('ZREM', KEYS[k], user) end
    if was_read then redis.call('HDEL', KEYS[8], user) end -- its isolation ends
  else -- marked or read again since: still dirty, but not overdue, so its waiting time restarts
    for k = 9, #KEYS do redis.call('ZADD', KEYS[k], 'XX', ARGV[4], user) end
  end
end
local still_pending = redis.call('HLEN', KEYS[3])
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[7], ARGV[2])
end
return still_pending
