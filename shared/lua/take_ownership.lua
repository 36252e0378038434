-- TAKE OWNERSHIP: take ownership of a user before a write that is not a result (bundles.json).
--
-- KEYS[1] dirty
-- ARGV[1] user
-- ARGV[2] read version before the files were read
-- ARGV[3] the new read version
-- Returns: 1 if the read version was replaced; 0 if another reader submitted or took ownership
--   since, or the user is not dirty any more.
-- Promise: of two workers at one bundle, the one that looked at it later writes last.
-- Failing trace: test_unpacker_that_is_slow_does_not_restore_older_version
local tokens = redis.call('HGET', KEYS[1], ARGV[1])
if not tokens or string.match(tokens, '|(.*)$') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.match(tokens, '^(.-)|') .. '|' .. ARGV[3])
return 1
