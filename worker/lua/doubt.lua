-- DOUBT: copies of these users' images may lie in the output bucket that nobody knows of: whoever made them had no
-- answer, or died.  The users are marked, and who reads them looks at what lies there.
-- KEYS  1 doubtful  2 dirty  3 since:bundle       ARGV  1 token  then the users
local token, now = ARGV[1], redis.call('TIME')[1]
for i = 2, #ARGV do
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  redis.call('SADD', KEYS[1], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], token .. '|' .. (old and string.match(old, '|(.*)$') or token))
  redis.call('ZADD', KEYS[3], 'NX', now, ARGV[i])
end
