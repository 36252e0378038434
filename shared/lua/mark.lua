-- MARK: make users dirty and pop the events that named them, in one step.
--
-- KEYS[1] event list ('' for none)
-- KEYS[2] change_versions
-- KEYS[3] read_versions
-- KEYS[4] dirty_since:<cause>
-- KEYS[5] dead_letters
-- KEYS[6] isolated_users
-- KEYS[7] dirty_since:unpack
-- ARGV[1] the new change version
-- ARGV[2] now (Unix seconds)
-- ARGV[3] maximum number of dead letters
-- ARGV[4] bytes of the longest event
-- ARGV[5..] per event: entry, dead letter ('' if it could be decoded), number of users (-1: overlong
--   event, the entry is not given), users ...
-- Returns: the marked users, without the isolated ones: the watchdog enqueues those.
-- Promise: an event leaves its list only in the step that marks its users, and every mark is newer
--   than every read before it.
-- Failing trace: change_after_read_is_read_again,
--   event_after_emptied_redis_is_not_popped_for_another, killed_listener_loses_no_event
--
-- Only a head equal to the peeked event is popped. If it differs, another listener has processed
-- the event, or the list was emptied and filled again. The users are marked all the same: an extra
-- read, and nothing is lost.
local event_list = KEYS[1]
local dead_letters = KEYS[5]
local change_version = ARGV[1]
local now = ARGV[2]
local max_dead_letters = tonumber(ARGV[3])
local marked = {}
local handled = {}

local function mark(user)
  if handled[user] then return end
  handled[user] = true
  local was_clean = redis.call('HSET', KEYS[2], user, change_version) == 1
  -- A dirty user keeps its read version: a read that is in progress may still submit its result.
  if was_clean then redis.call('HSET', KEYS[3], user, change_version) end
  -- A bundle's ID begins with a slash (47). Unpacking takes minutes, so it has its own set.
  redis.call('ZADD', string.byte(user) == 47 and KEYS[7] or KEYS[4], 'NX', now, user)
  marked[#marked + 1] = user
end

-- Whether the head is overlong too: all such events become the same dead letter.
local function head_is_too_long()
  local entry = redis.call('LINDEX', event_list, 0)
  return entry and #entry > tonumber(ARGV[4])
end

local i = 5
local head_matches = event_list ~= ''
while i <= #ARGV do
  local raw = ARGV[i]
  local dead_letter = ARGV[i + 1]
  local user_count = tonumber(ARGV[i + 2])
  i = i + 3
  local is_popped = false
  if head_matches then
    if redis.call('LINDEX', event_list, 0) == raw or (user_count < 0 and head_is_too_long()) then
      redis.call('LPOP', event_list)
      is_popped = true
    else
      head_matches = false
    end
  end
  if dead_letter ~= '' and is_popped then
    redis.call('RPUSH', dead_letters, dead_letter)
    redis.call('LTRIM', dead_letters, -max_dead_letters, -1)
  end
  for j = i, i + user_count - 1 do
    mark(ARGV[j])
  end
  i = i + math.max(user_count, 0)
end

-- Fast path: almost always the key does not exist.
if redis.call('EXISTS', KEYS[6]) == 0 then return marked end
local to_refresh = {}
for _, user in ipairs(marked) do
  if redis.call('SISMEMBER', KEYS[6], user) == 0 then to_refresh[#to_refresh + 1] = user end
end
return to_refresh
