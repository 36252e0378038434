-- BEGIN SWEEP: set the trust state to verifying, before the sweep's LIST. A later loss signal
-- deletes it, and the sweep's COMMIT SWEEP fails.
--
-- KEYS[1] trust_state
-- KEYS[2] loss_signals
-- KEYS[3] loss_signals:in_sweep
-- ARGV[1] token of the sweep
-- Returns: the kinds of loss signals that the sweep handles.
-- Promise: no kind is forgotten until a COMMIT SWEEP succeeds, even if this sweep is killed.
-- Failing trace: test_loss_signals_survive_interrupted_sweep
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) == 0 then
  redis.call('SADD', KEYS[3], 'first_start') -- the first sweep of all, or Redis was emptied
end
redis.call('SUNIONSTORE', KEYS[3], KEYS[2], KEYS[3])
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'state', 'verifying', 'sweep_token', ARGV[1])
return redis.call('SMEMBERS', KEYS[3])
