-- MARK: mark users dirty and pop the events that named them, atomically.
--
-- KEYS  1 event list ('' for none)  2 dirty  3 dirty_since:<cause>  4 dead_letters
--       5 seen: prefix of the counts of events  6 silent_drift  7 isolated_users  8 counters
--       9 dirty_since:unpack  10 dirty_since:event
-- ARGV  1 the new change version  2 now (Unix seconds)
--       3 'fast', 'safe', 'named' (no event), or 'silent_drift' (a sweep found silent drift)
--       4 TTL of a count in seconds  5 maximum number of dead letters
--       6 maximum number of users in `silent_drift`  7 bytes of the longest event
--       then per event: entry, its digest, dead letter ('' if it could be decoded),
--       number of users (-1: overlong event, the entry is not given), users ...
-- Returns the marked users, without the isolated ones: the watchdog enqueues those.
--
-- Only a head equal to the peeked event is popped. If it differs, another listener has processed
-- the event, or the list was emptied and filled again. The users are marked all the same: an extra
-- read, and nothing is lost.
-- Skip a durable copy only if its fast event was counted and not matched yet. Else mark: an extra
-- read is cheap, a missed change is not.
local event_list = KEYS[1]
local dirty = KEYS[2]
local since = KEYS[3]
local dead_letters = KEYS[4]
local seen = KEYS[5]
local change_version = ARGV[1]
local now = ARGV[2]
local origin = ARGV[3]
local seen_ttl = ARGV[4]
local max_dead_letters = tonumber(ARGV[5])
local marked = {}
local handled = {}
local was_clean = {}
local safe_count = 0

local function mark(user)
  if handled[user] then return end
  handled[user] = true
  local tokens = redis.call('HGET', dirty, user)
  local read_version = tokens and string.match(tokens, '|(.*)$') or change_version
  redis.call('HSET', dirty, user, change_version .. '|' .. read_version)
  -- A bundle's ID begins with a slash (47). Unpacking takes minutes, so it has its own set.
  redis.call('ZADD', string.byte(user) == 47 and KEYS[9] or since, 'NX', now, user)
  marked[#marked + 1] = user
  was_clean[user] = not tokens
end

-- Whether the head is overlong too: all such events become the same dead letter.
local function head_is_too_long()
  local entry = redis.call('LINDEX', event_list, 0)
  return entry and #entry > tonumber(ARGV[7])
end

local i = 8
local head_matches = event_list ~= ''
while i <= #ARGV do
  local raw = ARGV[i]
  local digest = ARGV[i + 1]
  local dead_letter = ARGV[i + 2]
  local user_count = tonumber(ARGV[i + 3])
  i = i + 4
  local is_popped = false
  if head_matches then
    if redis.call('LINDEX', event_list, 0) == raw or (user_count < 0 and head_is_too_long()) then
      redis.call('LPOP', event_list)
      is_popped = true
    else
      head_matches = false
    end
  end
  local is_duplicate = false -- whether this is the durable copy of a processed fast event
  if is_popped and origin == 'fast' then
    redis.call('INCR', seen .. digest)
    redis.call('EXPIRE', seen .. digest, seen_ttl)
  elseif is_popped and origin == 'safe' then
    safe_count = safe_count + 1
    local count = tonumber(redis.call('GET', seen .. digest) or '0')
    if count > 1 then
      redis.call('DECR', seen .. digest)
    elseif count == 1 then
      redis.call('DEL', seen .. digest)
    end
    is_duplicate = count > 0
  end
  if dead_letter ~= '' and is_popped and not is_duplicate then
    redis.call('RPUSH', dead_letters, dead_letter)
    redis.call('LTRIM', dead_letters, -max_dead_letters, -1)
  end
  for j = i, i + user_count - 1 do
    if not is_duplicate then mark(ARGV[j]) end
  end
  i = i + math.max(user_count, 0)
end
if safe_count > 0 then redis.call('HINCRBY', KEYS[8], 'safe_events', safe_count) end

-- A user that was dirty already is no silent drift: it was named before.
if origin == 'silent_drift' then
  local found_at = redis.call('TIME')[1]
  local free_entries = tonumber(ARGV[6]) - redis.call('HLEN', KEYS[6])
  for _, user in ipairs(marked) do
    if was_clean[user] and free_entries > 0 then
      free_entries = free_entries - redis.call('HSET', KEYS[6], user, found_at)
    end
  end
  return {}
end
-- Fast path: almost always neither key exists.
if redis.call('EXISTS', KEYS[6], KEYS[7]) == 0 then return marked end
local to_refresh = {}
for _, user in ipairs(marked) do
  if since == KEYS[10] then redis.call('HDEL', KEYS[6], user) end -- an event explains the drift
  if redis.call('HEXISTS', KEYS[7], user) == 0 then to_refresh[#to_refresh + 1] = user end
end
return to_refresh
