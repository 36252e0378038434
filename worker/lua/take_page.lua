-- TAKE_PAGE: take the next page of bulk work and see to it that its users are dirty, in one step.
-- KEYS  1 the list of pages  2 dirty  3 since:<cause>
-- ARGV  1 token  2 now (Unix seconds)  3 '1': mark its users (rebuild); '0': they were marked before (sweep)
-- Returns nil without a page, else {the page, its users that are dirty ...}.
local page = redis.call('LPOP', KEYS[1])
if not page then return nil end
local answer = {page}
for _, user in ipairs(cjson.decode(page)['users']) do
  local old = redis.call('HGET', KEYS[2], user)
  if ARGV[3] == '1' then
    local slot = old and string.match(old, '|(.*)$') or ARGV[1]
    redis.call('HSET', KEYS[2], user, ARGV[1] .. '|' .. slot)
    redis.call('ZADD', KEYS[3], 'NX', ARGV[2], user)
    old = true
  end
  if old then answer[#answer + 1] = user end
end
return answer
