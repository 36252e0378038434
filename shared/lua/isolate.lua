-- ISOLATE: isolate the users of a read that did not end, as its worker died or hangs.
--
-- KEYS[1] active_reads
-- KEYS[2] change_versions
-- KEYS[3] isolated_users
-- ARGV[1] read ID
-- ARGV[2..] the users of the read
-- Returns: the users that are dirty and now isolated; none if the read has ended since, or another
--   watchdog has handled it: HDEL lets only one of them pass.
-- Promise: the users of a read that killed its worker are read one by one.
-- Failing trace: test_broken_reads_isolate_users_after_some_ticks
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return {} end
local newly_isolated = {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
    redis.call('SADD', KEYS[3], ARGV[i])
    newly_isolated[#newly_isolated + 1] = ARGV[i]
  end
end
return newly_isolated
