-- MARK: mark users dirty and pop the events that named them, atomically.
--
-- KEYS  1 event list ('' for none)  2 dirty  3 since:<cause>  4 dead_letters
--       5 seen: prefix of the counts of events  6 unexplained  7 alone  8 counters  9 since:unpack
--       10 since:event
-- ARGV  1 token: the new change version  2 now (Unix seconds)
--       3 'fast', 'safe', 'named' (no event), or 'unexplained' (a sweep found silent drift)
--       4 TTL of a count in seconds  5 maximum number of dead letters
--       6 maximum number of users in `unexplained`  7 bytes of the longest event
--       then per event: raw, its digest, dead letter ('' if it could be decoded),
--       number of users (-1: overlong event, raw is not given), users ...
-- Returns the marked users, without the isolated ones: the watchdog enqueues those.
--
-- Only a head equal to the peeked event is popped. If it differs, another listener has processed
-- the event, or the list was emptied and filled again. The users are marked all the same: an extra
-- read, and nothing is lost.
-- Skip a durable copy only if its fast event was counted and not matched yet. Else mark: an extra
-- read is cheap, a missed change is not.
local list, dirty, since, dead, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, now, kind, kept, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local marked, given, clean, safe = {}, {}, {}, 0

local function mark(user)
  if given[user] then return end
  given[user] = true
  local old = redis.call('HGET', dirty, user)
  local slot = old and string.match(old, '|(.*)$') or token
  redis.call('HSET', dirty, user, token .. '|' .. slot)
  -- A bundle's ID begins with a slash (47). Unpacking takes minutes, so it has its own set.
  redis.call('ZADD', string.byte(user) == 47 and KEYS[9] or since, 'NX', now, user)
  marked[#marked + 1] = user
  clean[user] = not old
end

local function too_long() -- whether the head is overlong too: all of these become the same dead letter
  local there = redis.call('LINDEX', list, 0)
  return there and #there > tonumber(ARGV[7])
end

local i, head = 8, list ~= ''
while i <= #ARGV do
  local raw, digest, letter, users = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  i = i + 4
  local popped = false
  if head then
    if redis.call('LINDEX', list, 0) == raw or (users < 0 and too_long()) then
      redis.call('LPOP', list)
      popped = true
    else
      head = false
    end
  end
  local copy = false -- whether this is the durable copy of a processed fast event
  if popped and kind == 'fast' then
    redis.call('INCR', seen .. digest)
    redis.call('EXPIRE', seen .. digest, kept)
  elseif popped and kind == 'safe' then
    safe = safe + 1
    local count = tonumber(redis.call('GET', seen .. digest) or '0')
    if count > 1 then
      redis.call('DECR', seen .. digest)
    elseif count == 1 then
      redis.call('DEL', seen .. digest)
    end
    copy = count > 0
  end
  if letter ~= '' and popped and not copy then
    redis.call('RPUSH', dead, letter)
    redis.call('LTRIM', dead, -most, -1)
  end
  for j = i, i + users - 1 do
    if not copy then mark(ARGV[j]) end
  end
  i = i + math.max(users, 0)
end
if safe > 0 then redis.call('HINCRBY', KEYS[8], 'safe_events', safe) end

if kind == 'unexplained' then -- a user that was dirty already is no silent drift: it was named before
  local time = redis.call('TIME')[1]
  local room = tonumber(ARGV[6]) - redis.call('HLEN', KEYS[6])
  for _, user in ipairs(marked) do
    if clean[user] and room > 0 then room = room - redis.call('HSET', KEYS[6], user, time) end
  end
  return {}
end
-- Fast path: almost always neither key exists.
if redis.call('EXISTS', KEYS[6], KEYS[7]) == 0 then return marked end
local together = {}
for _, user in ipairs(marked) do
  if since == KEYS[10] then redis.call('HDEL', KEYS[6], user) end -- an event explains the drift
  if redis.call('HEXISTS', KEYS[7], user) == 0 then together[#together + 1] = user end
end
return together
