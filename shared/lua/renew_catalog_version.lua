-- RENEW CATALOG VERSION: invalidate the cached bundle catalogs.
--
-- KEYS[1] catalog_version
-- ARGV[1] the new version
-- ARGV[2] ETag of the catalog ('-' without a catalog)
-- ARGV[3] the expected version ('' for any)
-- Returns: nothing.
-- Promise: a cached catalog of the version before is not used any more.
-- Failing trace: test_bundle_lookup_reloads_catalog_when_version_changes
if ARGV[3] == '' or redis.call('HGET', KEYS[1], 'version') == ARGV[3] then
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'etag', ARGV[2])
end
