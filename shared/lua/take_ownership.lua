-- TAKE OWNERSHIP: take ownership of a user before a write that is not a result (bundles.json).
--
-- KEYS[1] change_versions
-- KEYS[2] read_versions
-- KEYS[3] pending_results
-- KEYS[4] pending_change_versions
-- ARGV[1] user
-- ARGV[2] read version before the files were read
-- ARGV[3] the new read version
-- Returns: 1 if the read version was replaced; 0 if another reader submitted or took ownership
--   since, or the user is not dirty any more.
-- Promise: of two workers at one bundle, the one that looked at it later writes last, and until it
--   has submitted its result the bundle is dirty and read again.
-- Failing trace: test_unpacker_that_is_slow_does_not_restore_older_version,
--   test_user_states_take_ownership_discards_pending_result,
--   test_user_states_pending_results_have_tokens_of_dirty_users
--
-- The read version of a user with a pending result is that of the result, so a pending result of an
-- earlier reader is discarded: the owner submits a newer one.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
