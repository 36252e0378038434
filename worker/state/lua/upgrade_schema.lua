-- UPGRADE SCHEMA: remove the state that a release with other keys has left, once.
--
-- KEYS  1 schema_version  2 counters  3 dead_letters  4 counters of version 1
--       5 dead letters of version 1  6.. further keys of version 1
-- ARGV  1 the version of this release  2 maximum number of dead letters
--       3 number of renamed counters  then per renamed counter: its old and its new name
--       then per key from 6 on: its type in version 1
-- Returns 1 if state of version 1 was removed, else 0.
--
-- Counters and dead letters are moved, as nothing else can restore them. A sweep restores the rest.
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
local type_index = 4 + 2 * tonumber(ARGV[3])
for i = 4, type_index - 1, 2 do new_names[ARGV[i]] = ARGV[i + 1] end
local counters = redis.call('HGETALL', KEYS[4])
for i = 1, #counters, 2 do
  local name = counters[i]
  local value = counters[i + 1]
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
  for i = #letters, 1, -1 do redis.call('LPUSH', KEYS[3], letters[i]) end -- before the newer ones
  redis.call('LTRIM', KEYS[3], -tonumber(ARGV[2]), -1)
  redis.call('UNLINK', KEYS[5])
end

for i = 6, #KEYS do
  if has_type(KEYS[i], ARGV[type_index + i - 6]) then redis.call('UNLINK', KEYS[i]) end
end
return 1
