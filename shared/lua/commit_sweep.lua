-- COMMIT SWEEP: set the trust state to verified, if there was no loss signal since the sweep began.
-- The users that were out of sync at its LIST are marked by now.
--
-- KEYS[1] trust_state
-- KEYS[2] last_publish
-- KEYS[3] last_sweep
-- KEYS[4] loss_signals:in_sweep
-- ARGV[1] token of the sweep
-- ARGV[2] last writer token as it was before the LIST ('' if absent)
-- ARGV[3] ETag of the output that was compared ('' if absent)
-- ARGV[4] ETag of the rejects that were compared ('' if absent)
-- ARGV[5] run_id of Redis as it was before the LIST
-- ARGV[6..] fields and values for the hash `last_sweep`
-- Returns: 1 if the trust state is verified, 0 if there was a loss signal: another sweep is due.
-- Promise: verified means that every loss known before the LIST has been marked.
-- Failing trace: loss_signal_during_sweep_causes_another_sweep, sweep_does_not_verify_late_write
--
-- The compared ETags are recorded as published only if no publisher recorded anything since before
-- the LIST. Otherwise a dead publisher's late write would be recorded as verified.
local has_etags = ARGV[3] ~= '' and ARGV[4] ~= ''
if (redis.call('HGET', KEYS[2], 'writer_token') or '') == ARGV[2] and has_etags then
  redis.call('HSET', KEYS[2], 'output_etag', ARGV[3], 'rejects_etag', ARGV[4])
end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
if redis.call('HGET', KEYS[1], 'sweep_token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('HSET', KEYS[1], 'state', 'verified', 'run_id', ARGV[5])
return 1
