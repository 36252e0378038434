-- ADD LOSS SIGNAL: add a loss signal and revoke the trust state. Each kind is counted once until a
-- sweep begins.
-- KEYS  1 trust_state  2 loss_signals  3 counters        ARGV  1 kind
-- Returns 1 if this kind is new since the last sweep began.
redis.call('DEL', KEYS[1])
local is_new = redis.call('SADD', KEYS[2], ARGV[1])
if is_new == 1 then redis.call('HINCRBY', KEYS[3], 'loss_signal:' .. ARGV[1], 1) end
return is_new
