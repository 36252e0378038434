-- COUNT SILENT REPAIRS: count the users that a sweep found out of sync without an event, and that
-- are repaired since.
-- KEYS  1 silent_drift  2 event list  3 counters
-- ARGV  1 seconds that an event may take  then users ...
-- Returns the counted users. None while an event is waiting, as it may explain one of them.
if redis.call('EXISTS', KEYS[2]) > 0 then return {} end
local now = tonumber(redis.call('TIME')[1])
local repaired = {}
for i = 2, #ARGV do
  local found_at = redis.call('HGET', KEYS[1], ARGV[i])
  local is_repaired = found_at and string.sub(found_at, 1, 1) == '+'
  if is_repaired and math.abs(now - string.sub(found_at, 2)) >= tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], ARGV[i])
    repaired[#repaired + 1] = ARGV[i]
  end
end
if #repaired > 0 then redis.call('HINCRBY', KEYS[3], 'silent_repairs', #repaired) end
return repaired
