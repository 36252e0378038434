-- EVIDENCE: something may have been lost.  Counted once for each kind until a sweep looks.
-- KEYS  1 epoch  2 evidence:new  3 counters        ARGV  1 the kind
-- Returns 1 if it was not known yet.
redis.call('DEL', KEYS[1])
local new = redis.call('SADD', KEYS[2], ARGV[1])
if new == 1 then redis.call('HINCRBY', KEYS[3], 'evidence:' .. ARGV[1], 1) end
return new
