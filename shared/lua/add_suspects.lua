-- ADD SUSPECTS: mark users as suspect: a worker that timed out or died may have left stray image
-- copies of them in the output bucket. The next read of such a user lists its copies.
--
-- KEYS[1] suspect_users
-- KEYS[2] change_versions
-- KEYS[3] read_versions
-- KEYS[4] dirty_since:bundle
-- ARGV[1] the new change version
-- ARGV[2..] the users
-- Returns: nothing.
-- Promise: a suspect user is dirty, so a read will list its copies.
-- Failing trace: test_broken_reads_mark_users_of_dead_worker,
--   test_image_copies_of_dead_worker_are_removed_without_sweep
local new_version = ARGV[1]
local now = redis.call('TIME')[1]
for i = 2, #ARGV do
  local user = ARGV[i]
  redis.call('SADD', KEYS[1], user)
  local was_clean = redis.call('HSET', KEYS[2], user, new_version) == 1
  if was_clean then redis.call('HSET', KEYS[3], user, new_version) end
  redis.call('ZADD', KEYS[4], 'NX', now, user)
end
