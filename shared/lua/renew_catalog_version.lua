-- RENEW CATALOG VERSION: invalidate the cached bundle catalogs.
--
-- KEYS[1] catalog_version
-- ARGV[1] the new version with the ETag of the catalog
-- ARGV[2] the expected version ('' for any)
-- Returns: nothing.
-- Promise: a cached catalog of the version before is not used any more.
-- Failing trace: test_bundle_lookup_reloads_catalog_when_version_changes
if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1])
end
