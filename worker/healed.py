"""Silent repairs: the number of users that would stay out of sync without sweeps.

A sweep records in `unexplained` (hash: user -> Redis's time) each user that is out of sync although
it is neither dirty nor staged. A late event removes the user (MARK). So does a publish that changes
nothing (CLEAN); of the other published users, CLEAN flags the time with "+". If `EVENT_S` seconds
later no event is waiting, the flagged users were lost, and the sweep has repaired them.
"""

import logging
from pathlib import Path
from typing import Any

from redis import Redis

from worker.backlog import CHUNK, FAST, SAFE

logger = logging.getLogger(__name__)

EVENT_S = 5
"""An event takes milliseconds, its durable copy by way of MinIO's disk 3 s."""


class Healed:
    """Counts silent repairs, `event_s` seconds after the sweep found the drift.

    Raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", event_s: int = EVENT_S) -> None:
        self._redis: Any = client
        self._event_s = event_s
        self._healed = client.register_script((Path(__file__).parent / "lua" / "healed.lua").read_text())

    def count(self, cause: str) -> int:
        """Count the repaired users that no event explains; return their number.

        `cause` is the cause of the last sweep, for the log.
        """
        counted: list[str] = []
        cursor = None
        while cursor != 0:
            cursor, entries = self._redis.hscan("unexplained", cursor or 0, count=CHUNK)
            put_right = [user for user, found in entries.items() if found.startswith(b"+")]
            if put_right:
                keys = ["unexplained", FAST, SAFE, "counters"]
                counted += [user.decode() for user in self._healed(keys, [self._event_s, *put_right])]
        if counted:
            logger.warning(
                "silent drift: %s and %d more changed without an event; a sweep (%s) repaired them",
                counted[0],
                len(counted) - 1,
                cause,
            )
        return len(counted)
