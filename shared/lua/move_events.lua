-- MOVE EVENTS: move events from one list to another.
--
-- KEYS[1] list to empty
-- KEYS[2] list to fill
-- ARGV[1] maximum number of events
-- Returns: the number of events that were moved.
-- Promise: every event is in one of the lists, in its order.
-- Failing trace: test_event_inbox_moves_copies_of_0_3
local moved = 0
while moved < tonumber(ARGV[1]) and redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT') do
  moved = moved + 1
end
return moved
