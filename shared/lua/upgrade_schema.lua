-- UPGRADE SCHEMA: remove the state that a release with other keys has left, once.
--
-- KEYS[1] schema_version
-- KEYS[2] counters
-- KEYS[3] dead_letters
-- KEYS[4] counters of version 1
-- KEYS[5] dead letters of version 1
-- KEYS[6..] further keys of version 1
-- ARGV[1] the version of this release
-- ARGV[2] maximum number of dead letters
-- ARGV[3] number of renamed counters
-- ARGV[4..] per renamed counter its old and its new name, then per key from KEYS[6] on its type in
--   version 1
-- Returns: 1 if state of version 1 was removed, else 0.
-- Promise: counters and dead letters are moved, and no key of another application is removed.
-- Failing trace: test_upgrade_removes_old_keys_and_keeps_counters,
--   test_upgrade_leaves_keys_of_other_applications_alone
--
-- Nothing else can restore counters and dead letters. A sweep restores the rest.
-- Another application may have keys with these names. Rowdrop's counters have `since`, which the
-- watchdog sets at its first tick. Without it nothing is removed, and later only keys of the right
-- type.
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])

local function has_type(key, expected)
  return redis.call('TYPE', key).ok == expected
end

if not has_type(KEYS[4], 'hash') or redis.call('HEXISTS', KEYS[4], 'since') == 0 then return 0 end

local new_names = {}
local i = 4
for _ = 1, tonumber(ARGV[3]) do
  new_names[ARGV[i]] = ARGV[i + 1]
  i = i + 2
end
local counters = redis.call('HGETALL', KEYS[4])
for c = 1, #counters, 2 do
  local name = counters[c]
  local value = counters[c + 1]
  local kind = string.match(name, '^evidence:(.*)$')
  local new_name = kind and 'loss_signal:' .. kind or new_names[name]
  if name == 'since' then
    redis.call('HSET', KEYS[2], 'since', value)
  elseif new_name then
    redis.call('HINCRBY', KEYS[2], new_name, value)
  end
end
redis.call('UNLINK', KEYS[4])

if has_type(KEYS[5], 'list') then
  local letters = redis.call('LRANGE', KEYS[5], 0, -1)
  for l = #letters, 1, -1 do redis.call('LPUSH', KEYS[3], letters[l]) end -- before the newer ones
  redis.call('LTRIM', KEYS[3], -tonumber(ARGV[2]), -1)
  redis.call('UNLINK', KEYS[5])
end

for k = 6, #KEYS do
  if has_type(KEYS[k], ARGV[i]) then redis.call('UNLINK', KEYS[k]) end
  i = i + 1
end
return 1
