"""The registry of live API processes in Redis, with the age of the snapshot that each one serves.

api:snapshots   hash   process -> "<looked> <seen>": when its last complete check of output.csv
                       began, and its last heartbeat; both in Redis time, so that no two clocks
                       are compared
"""

import os
import secrets
import socket
from typing import Any

from redis import Redis

SNAPSHOTS = "api:snapshots"
CHANNEL = "published"
DEAD_AFTER_S = 30
"""A process without a heartbeat for this long is presumed dead.

It must be longer than one check of a MinIO that hangs.
"""

_SIGN = """
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now)
return now
"""


class Presence:
    """This process's entry in the registry, and queries about all entries.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._sign = client.register_script(_SIGN)
        # Unique also after a container restarts with the same host name and process IDs.
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    def sign(self, looked: float) -> float:
        """Record a heartbeat, and when the last complete check of output.csv began (`looked`).

        Returns the current Redis time in seconds, which is also the unit of `looked`.
        """
        return float(self._sign([SNAPSHOTS], [self._name, f"{looked:.6f}"]))

    def leave(self) -> None:
        """Remove this process from the registry."""
        self._redis.hdel(SNAPSHOTS, self._name)

    def now(self) -> float:
        """Return the current Redis time in seconds."""
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)

    def wake_all(self) -> None:
        """Notify every API process to check output.csv immediately."""
        self._redis.publish(CHANNEL, "look")

    def all_looked_since(self, when: float) -> bool:
        """Return whether every live process has completed a check that began at `when` or later.

        `when` is a Redis time in seconds.  Entries of dead processes are removed.  The result is
        False if no process is live.
        """
        entries = self._redis.hgetall(SNAPSHOTS)
        now = self.now()
        looked = []
        for name, value in entries.items():
            began, seen = map(float, value.split())
            if now - seen > DEAD_AFTER_S:
                self._redis.hdel(SNAPSHOTS, name)
            else:
                looked.append(began)
        return bool(looked) and min(looked) >= when
