-- CLAIM: take ownership of a user before a write that is not a result (bundles.json).
-- KEYS  1 dirty        ARGV  1 user  2 read version (`slot`) before the files were read  3 token
-- Compare-and-set. Returns 1, and the token is the new read version; 0 if another reader submitted
-- or took ownership since, or the user is not dirty any more.
local now = redis.call('HGET', KEYS[1], ARGV[1])
if not now or string.match(now, '|(.*)$') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.match(now, '^(.-)|') .. '|' .. ARGV[3])
return 1
