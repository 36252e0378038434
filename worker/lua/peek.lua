-- PEEK: the first entries of an event list.  Takes nothing from it.
-- KEYS  1 the event list        ARGV  1 most entries  2 bytes of the longest entry that is read whole
--       3 bytes that are shown of a longer one  4 bytes of entries after which no further one is looked at
-- Returns the entries, each as it is, or as {its beginning} if it is too long.
--
-- One by one: a list may be full of entries of any size, and Redis must not hold many of them twice at a time.
local entries, seen = {}, 0
for i = 0, tonumber(ARGV[1]) - 1 do
  local raw = redis.call('LINDEX', KEYS[1], i)
  if not raw then break end
  seen = seen + #raw
  entries[#entries + 1] = #raw > tonumber(ARGV[2]) and {string.sub(raw, 1, ARGV[3])} or raw
  if seen > tonumber(ARGV[4]) then break end
end
return entries
