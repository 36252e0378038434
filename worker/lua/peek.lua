-- PEEK: read the first entries of an event list. Removes nothing from it.
-- KEYS  1 event list
-- ARGV  1 maximum number of entries  2 bytes of the longest entry that is returned whole
--       3 bytes returned of a longer one  4 total bytes after which no further entry is read
-- Returns the entries, each as it is, or as {its beginning} if it is too long.
--
-- One LINDEX per entry: entries may have any size, and Redis must not hold copies of many at the
-- same time.
local entries, seen = {}, 0
for i = 0, tonumber(ARGV[1]) - 1 do
  local raw = redis.call('LINDEX', KEYS[1], i)
  if not raw then break end
  seen = seen + #raw
  entries[#entries + 1] = #raw > tonumber(ARGV[2]) and {string.sub(raw, 1, ARGV[3])} or raw
  if seen > tonumber(ARGV[4]) then break end
end
return entries
