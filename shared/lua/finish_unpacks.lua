-- FINISH UNPACKS: set the bundles without unpublished users to done.
--
-- KEYS[1] unpacks_publishing
-- KEYS[2] dirty_since:bundle
-- KEYS[3] prefix of the records of unpacks
-- ARGV[1] now (Unix seconds)
-- Returns: the IDs of these bundles.
-- Promise: a bundle is done only when no user is left that was marked up to its `marked_at`.
-- Failing trace: test_unpacks_report_progress
--
-- Users are not recorded per bundle.
local finished = {}
for _, task_id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local record_key = KEYS[3] .. task_id
  local state, marked_at = unpack(redis.call('HMGET', record_key, 'state', 'marked_at'))
  if state ~= 'publishing' then
    redis.call('SREM', KEYS[1], task_id)
  elseif redis.call('ZCOUNT', KEYS[2], '-inf', marked_at) == 0 then
    redis.call('SREM', KEYS[1], task_id)
    redis.call('HSET', record_key, 'state', 'done', 'finished_at', ARGV[1])
    table.insert(finished, task_id)
  end
end
return finished
