-- COUNT EVENTS: return the length of the event inbox, and a digest of its first event.
--
-- ARGV[1] event list
-- Returns: {number of events, digest of the first one, '' without any}.
-- Promise: another digest shows that the listener processes events.
-- Failing trace: test_poller_detects_events_that_stay_unprocessed
--
-- The list is in ARGV and not in KEYS, because Redis requires write permission for KEYS, and the
-- API may only read this list (least privilege). An entry may have any size, so only its digest is
-- returned.
local head = redis.call('LINDEX', ARGV[1], 0)
local digest = head and redis.sha1hex(#head .. string.sub(head, 1, 2000)) or ''
return {redis.call('LLEN', ARGV[1]), digest}
