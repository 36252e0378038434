"""Silent repairs: the number of users that would stay out of sync without sweeps.

A sweep records as silent drift each user that is out of sync although it is not dirty. A late event
removes the user (MARK). So does a publish that changes nothing (COMMIT PUBLISH). COMMIT PUBLISH
flags the time of the other published users with "+". If no event is waiting `MAX_EVENT_DELAY_S`
seconds later, the changes of the flagged users had no event, and the sweep has repaired them.
"""

import logging
from typing import Any

from redis import Redis

from shared.progress.sweep_record import SweepRecord
from shared.redis_keys import COUNTERS, FAST_EVENTS, SILENT_DRIFT
from worker.state.scripts import CHUNK_SIZE, Scripts

logger = logging.getLogger(__name__)

MAX_EVENT_DELAY_S = 5
"""An event takes milliseconds; in a burst of PUTs it may take longer."""


class SilentRepairs:
    """Counts silent repairs, `max_event_delay_s` seconds after the sweep found the drift.

    Raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(
        self,
        client: "Redis",
        scripts: Scripts,
        sweeps: SweepRecord,
        max_event_delay_s: int = MAX_EVENT_DELAY_S,
    ) -> None:
        self._redis: Any = client
        self._sweeps = sweeps
        self._max_event_delay_s = max_event_delay_s
        self._count_silent_repairs = scripts["count_silent_repairs"]

    def tick(self, now: float) -> None:
        """Count the users that the last sweep repaired."""
        self.count(self._sweeps.get_field("cause") or "")

    def count(self, cause: str) -> int:
        """Count the repaired users that no event explains; return their number.

        `cause` is the cause of the last sweep, for the log.
        """
        repaired: list[str] = []
        cursor = None
        while cursor != 0:
            cursor, entries = self._redis.hscan(SILENT_DRIFT, cursor or 0, count=CHUNK_SIZE)
            candidates = [user for user, found_at in entries.items() if found_at.startswith(b"+")]
            if candidates:
                keys = [SILENT_DRIFT, FAST_EVENTS, COUNTERS]
                repaired += [
                    user.decode()
                    for user in self._count_silent_repairs(
                        keys, [self._max_event_delay_s, *candidates]
                    )
                ]
        if repaired:
            logger.warning(
                "silent drift: %s and %d more changed without an event; a sweep (%s) repaired them",
                repaired[0],
                len(repaired) - 1,
                cause,
            )
        return len(repaired)
