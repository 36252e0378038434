-- DOUBT: mark users as suspect: a worker that timed out or died may have left stray image copies of
-- them in the output bucket. The next read of such a user lists its copies.
-- KEYS  1 doubtful  2 dirty  3 since:bundle       ARGV  1 token  then the users
local token, now = ARGV[1], redis.call('TIME')[1]
for i = 2, #ARGV do
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  redis.call('SADD', KEYS[1], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], token .. '|' .. (old and string.match(old, '|(.*)$') or token))
  redis.call('ZADD', KEYS[3], 'NX', now, ARGV[i])
end
