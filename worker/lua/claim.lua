-- CLAIM: be the reading whose outcome counts, before it does what cannot be handed in by STAGE: writing the shelf.
-- KEYS  1 dirty        ARGV  1 user  2 slot as noted before reading  3 token
-- Returns 1, and the token is the slot from now on; 0 if another reading was accepted or has claimed meanwhile, or the
-- user is not dirty (any more).
local now = redis.call('HGET', KEYS[1], ARGV[1])
if not now or string.match(now, '|(.*)$') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.match(now, '^(.-)|') .. '|' .. ARGV[3])
return 1
