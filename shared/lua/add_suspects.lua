-- ADD SUSPECTS: mark users as suspect: a worker that timed out or died may have left stray image
-- copies of them in the output bucket. The next read of such a user lists its copies.
--
-- KEYS[1] suspect_users
-- KEYS[2] dirty
-- KEYS[3] dirty_since:bundle
-- ARGV[1] new version
-- ARGV[2..] the users
-- Returns: nothing.
-- Promise: a suspect user is dirty, so a read will list its copies.
-- Failing trace: test_image_copies_of_dead_worker_are_removed_without_sweep
local new_version = ARGV[1]
local now = redis.call('TIME')[1]
for i = 2, #ARGV do
  local tokens = redis.call('HGET', KEYS[2], ARGV[i])
  redis.call('SADD', KEYS[1], ARGV[i])
  local read_version = tokens and string.match(tokens, '|(.*)$') or new_version
  redis.call('HSET', KEYS[2], ARGV[i], new_version .. '|' .. read_version)
  redis.call('ZADD', KEYS[3], 'NX', now, ARGV[i])
end
