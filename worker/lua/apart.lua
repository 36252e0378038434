-- APART: a reading has not come to its end, so that its worker died or hangs: each of its users is to be read alone.
-- KEYS  1 readings  2 dirty  3 alone        ARGV  1 the reading's token  then its users ...
-- Returns the users; none if the reading has ended by now, or another watch was quicker.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return {} end
local apart = {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
    redis.call('HSETNX', KEYS[3], ARGV[i], '0|||')
    apart[#apart + 1] = ARGV[i]
  end
end
return apart
