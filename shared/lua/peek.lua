-- PEEK: read the first entries of an event list. Removes nothing from it.
--
-- KEYS[1] event list
-- ARGV[1] maximum number of entries
-- ARGV[2] bytes of the longest entry that is returned whole
-- ARGV[3] bytes returned of a longer one
-- ARGV[4] total bytes after which no further entry is read
-- Returns: the entries, each as it is, or as {its beginning} if it is too long.
-- Promise: a listener that is killed after it has loses no event.
-- Failing trace: killed_listener_loses_no_event
--
-- One LINDEX per entry: entries may have any size, and Redis must not hold copies of many at the
-- same time.
local entries = {}
local total_bytes = 0
for i = 0, tonumber(ARGV[1]) - 1 do
  local entry = redis.call('LINDEX', KEYS[1], i)
  if not entry then break end
  total_bytes = total_bytes + #entry
  entries[#entries + 1] = #entry > tonumber(ARGV[2]) and {string.sub(entry, 1, ARGV[3])} or entry
  if total_bytes > tonumber(ARGV[4]) then break end
end
return entries
