-- EVIDENCE: add a loss signal and revoke the trust state. Each kind is counted once until a sweep
-- begins.
-- KEYS  1 epoch  2 evidence:new  3 counters        ARGV  1 kind
-- Returns 1 if this kind is new since the last sweep began.
redis.call('DEL', KEYS[1])
local new = redis.call('SADD', KEYS[2], ARGV[1])
if new == 1 then redis.call('HINCRBY', KEYS[3], 'evidence:' .. ARGV[1], 1) end
return new
