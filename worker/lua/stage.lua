-- STAGE: submit results by compare-and-set of the read version (`slot`).
--
-- KEYS  1 dirty  2 staged  3 since:event  4 wake:live  5 wake:bulk  6 readings  7 doubtful
-- ARGV  1 token: the new read version  2 token of the read that ends ('' for none)
--       then per user: user, mark and slot before its files were read, outcome,
--       '1' if this read has copied an image of the user
-- Returns per user: 'ok', 'again' (the read version has changed: read once more) or 'gone' (no
-- longer dirty).
--
-- The read version is compared, not the change version. A mark during the read leaves the user
-- dirty after the publish, so it is read again anyway. But a read that began before the last
-- accepted one may be older, and must not replace it.
local dirty, staged, events, token = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local answers, live, bulk = {}, false, false
for i = 3, #ARGV, 5 do
  local user, slot, outcome = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local now = redis.call('HGET', dirty, user)
  if not now and ARGV[i + 4] == '1' then
    -- Its image copy may have replaced a newer one, or no row names it: a suspect user.
    redis.call('SADD', KEYS[7], user)
    redis.call('HSET', dirty, user, token .. '|' .. token)
    redis.call('ZADD', events, 'NX', redis.call('TIME')[1], user)
    answers[#answers + 1] = 'again'
  elseif not now then
    answers[#answers + 1] = 'gone'
  elseif string.match(now, '|(.*)$') ~= slot then
    -- Likewise. A new change version is needed: with the one just read, NOTE would skip the user.
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
-- Pushed only if empty, so wake-ups do not accumulate. The watchdog, which ticks every 15 s,
-- replaces one that a dead publisher took.
if live and redis.call('LLEN', KEYS[4]) == 0 then redis.call('RPUSH', KEYS[4], '1') end
if bulk and redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end
return answers
