-- ADD LOSS SIGNAL: add a loss signal and revoke the trust state.
--
-- KEYS[1] trust_state
-- KEYS[2] loss_signals
-- KEYS[3] counters
-- ARGV[1] kind of the signal
-- Returns: 1 if this kind is new since the last sweep began.
-- Promise: a sweep that runs now does not become verified, and each kind is counted once per sweep.
-- Failing trace: loss_signal_during_sweep_causes_another_sweep
redis.call('DEL', KEYS[1])
local is_new = redis.call('SADD', KEYS[2], ARGV[1])
if is_new == 1 then redis.call('HINCRBY', KEYS[3], 'loss_signal:' .. ARGV[1], 1) end
return is_new
