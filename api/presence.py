"""Which API processes live, and since when each of them shows what is published; known to all by way of Redis.

api:snapshots   hash   process -> "<looked> <seen>": when its last whole look at output.csv began, and when it last
                       gave a sign of life; both by Redis's own clock, so that no two clocks are compared
"""

import os
import secrets
import socket
from typing import Any

from redis import Redis

SNAPSHOTS = "api:snapshots"
CHANNEL = "published"
DEAD_AFTER_S = 30
"""A process that was silent for so long is taken for dead; longer than a look at a hung MinIO takes."""

_SIGN = """
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now)
return now
"""


class Presence:
    """This process among the others.  Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._sign = client.register_script(_SIGN)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    def sign(self, looked: float) -> float:
        """Say that this process lives, and when its last whole look began; Redis's time (seconds)."""
        return float(self._sign([SNAPSHOTS], [self._name, f"{looked:.6f}"]))

    def leave(self) -> None:
        """Say that this process ends."""
        self._redis.hdel(SNAPSHOTS, self._name)

    def now(self) -> float:
        """Redis's time, in seconds."""
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)

    def wake_all(self) -> None:
        """Have every process look at once."""
        self._redis.publish(CHANNEL, "look")

    def all_looked_since(self, when: float) -> bool:
        """Whether every living process has begun a look after `when`, and ended it.  Forgets the dead."""
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
