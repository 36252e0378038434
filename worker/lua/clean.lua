-- CLEAN: record what was published and forget what it made clean, as the current writer.
--
-- KEYS  1 writer  2 published  3 staged  4 dirty  5 epoch  6.. since:<cause>
-- ARGV  1 token  2 etag  3 rej_etag  4 now (Unix seconds)  5 rows  6 '1' in the last chunk  then user, 'mark|slot' ...
-- Returns -1 if the lease was lost (then somebody may have been overwritten: evidence), else the number still staged.
--
-- A user is clean only if its tokens are still those of the entry that was published: no later mark, no later reading.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  redis.call('DEL', KEYS[5])
  redis.call('SET', 'evidence', 'a publisher was replaced while it wrote')
  return -1
end
redis.call('HSET', KEYS[2], 'by', ARGV[1], 'etag', ARGV[2], 'rej_etag', ARGV[3], 'time', ARGV[4], 'rows', ARGV[5])
for i = 7, #ARGV, 2 do
  local user, tokens = ARGV[i], ARGV[i + 1]
  local entry = redis.call('HGET', KEYS[3], user)
  if entry and string.sub(entry, 1, #tokens + 1) == tokens .. '|' then redis.call('HDEL', KEYS[3], user) end
  if redis.call('HGET', KEYS[4], user) == tokens then
    redis.call('HDEL', KEYS[4], user)
    for k = 6, #KEYS do redis.call('ZREM', KEYS[k], user) end
  else -- marked or read again meanwhile: dirty still, but its waiting begins anew
    for k = 6, #KEYS do redis.call('ZADD', KEYS[k], 'XX', ARGV[4], user) end
  end
end
local left = redis.call('HLEN', KEYS[3])
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', 'published', ARGV[2])
end
return left
