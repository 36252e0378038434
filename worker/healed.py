"""Lost and healed: the users who would be wrong without sweeps.

A sweep notes in `unexplained` (hash: user -> Redis's time) whoever differs from what is published and is on no way to
it: neither dirty nor staged.  An event that comes now explains it, and MARK strikes the user out.  CLEAN strikes out
whose reading changed nothing, and puts a "+" before the time of the others.  What is left `EVENT_S` seconds later, with
no event waiting, was lost, and is healed.
"""

import logging
from pathlib import Path
from typing import Any

from redis import Redis

from worker.backlog import CHUNK, FAST, SAFE

logger = logging.getLogger(__name__)

EVENT_S = 5
"""An event takes milliseconds, by way of MinIO's disk 3 s."""


class Healed:
    """Counts them, `event_s` seconds later.  Raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis", event_s: int = EVENT_S) -> None:
        self._redis: Any = client
        self._event_s = event_s
        self._healed = client.register_script((Path(__file__).parent / "lua" / "healed.lua").read_text())

    def count(self, cause: str) -> int:
        """Count whoever is certain by now; `cause` is the last sweep's, for the log.  Returns how many."""
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
                "%s and %d more had changed without an event, and are healed (sweep: %s)",
                counted[0],
                len(counted) - 1,
                cause,
            )
        return len(counted)
