-- STAGE: hand in what was read of some users, each only if nobody else's reading was accepted meanwhile.
--
-- KEYS  1 dirty  2 staged  3 since:event  4 wake:live  5 wake:bulk  6 readings  7 doubtful
-- ARGV  1 token  2 the token of the reading that ends herewith ('' for none), then per user: user, mark and slot as
--       noted before reading, outcome, '1' if the reading has copied an image of theirs
-- Returns per user: 'ok', 'again' (the slot has changed: note and read once more) or 'gone' (no longer dirty).
--
-- The slot is compared, not the mark: a mark that came while reading leaves the user dirty after the publish, so it is
-- read again anyway; but a reading that began before the last accepted one may be older and must not replace it.
local dirty, staged, events, token = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local answers, live, bulk = {}, false, false
for i = 3, #ARGV, 5 do
  local user, slot, outcome = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local now = redis.call('HGET', dirty, user)
  if not now and ARGV[i + 4] == '1' then
    -- Its copy may be older than the one that was published, or one that no row names: have it looked at (see DOUBT).
    redis.call('SADD', KEYS[7], user)
    redis.call('HSET', dirty, user, token .. '|' .. token)
    redis.call('ZADD', events, 'NX', redis.call('TIME')[1], user)
    answers[#answers + 1] = 'again'
  elseif not now then
    answers[#answers + 1] = 'gone'
  elseif string.match(now, '|(.*)$') ~= slot then
    -- Likewise; with the mark that was read NOTE would pass this user over.
    if ARGV[i + 4] == '1' then
      redis.call('SADD', KEYS[7], user)
      redis.call('HSET', dirty, user, token .. '|' .. string.match(now, '|(.*)$'))
    end
    answers[#answers + 1] = 'again'
  else
    redis.call('HSET', dirty, user, string.match(now, '^(.-)|') .. '|' .. token)
    redis.call('HSET', staged, user, ARGV[i + 1] .. '|' .. token .. '|' .. outcome)
    answers[#answers + 1] = 'ok'
    if redis.call('ZSCORE', events, user) then live = true else bulk = true end
  end
end
if ARGV[2] ~= '' then redis.call('HDEL', KEYS[6], ARGV[2]) end
-- The list is the wake-up and its own "already sent": what a dead publisher took from it is found by the 15-s watch.
if live and redis.call('LLEN', KEYS[4]) == 0 then redis.call('RPUSH', KEYS[4], '1') end
if bulk and redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end
return answers
