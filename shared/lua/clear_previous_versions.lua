-- CLEAR PREVIOUS VERSIONS: delete the record of a bundle if all users in it are marked.
--
-- KEYS[1] previous_versions
-- ARGV[1] key of the bundle
-- ARGV[2] the digests of which all users are marked, as JSON
-- Returns: nothing.
-- Promise: digests that were recorded since are kept.
-- Failing trace: test_previous_versions_keep_digests_recorded_since
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
