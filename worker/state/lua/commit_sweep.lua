-- COMMIT SWEEP: set the trust state to verified, if there was no loss signal since the sweep began.
-- The users that were out of sync at its LIST are marked by now.
--
-- KEYS  1 trust_state  2 last_publish  3 last_sweep  4 loss_signals:in_sweep
-- ARGV  1 the sweep's token  2 last writer token as it was before the LIST ('' if absent)
--       3 output ETag  4 rejects ETag of the objects that were compared
--       5 run_id of Redis as it was before the LIST
--       then fields and values for the hash `last_sweep`
-- Returns 1 if the trust state is verified, 0 if there was a loss signal: another sweep is due.
--
-- The compared ETags are recorded as published only if no publisher recorded anything since before
-- the LIST. Otherwise a dead publisher's late write would be recorded as verified.
local has_etags = ARGV[3] ~= '' and ARGV[4] ~= ''
if (redis.call('HGET', KEYS[2], 'writer_token') or '') == ARGV[2] and has_etags then
  redis.call('HSET', KEYS[2], 'output_etag', ARGV[3], 'rejects_etag', ARGV[4])
end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
if redis.call('GET', KEYS[1]) ~= 'verifying:' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'verified:' .. ARGV[5])
redis.call('DEL', KEYS[4])
return 1
