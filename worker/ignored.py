"""Keys in the source bucket that are no user's file: a count and the first hundred, for `/errors`.

    ignored         hash    key -> {"reason", "since"}; at most 100        ignored:total   how many there are

The sweep makes both anew; between sweeps the listener keeps them roughly right, so that one sees at once why `1.CSV`
made no row.
"""

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

SHOWN = 100


class IgnoredKeys:
    """The list of ignored keys.  Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def noticed(self, key: str, reason: str, event_name: str, now: float) -> None:
        """An event told of such a key."""
        if event_name.startswith("s3:ObjectRemoved"):
            if self._redis.hdel("ignored", key):
                self._redis.decr("ignored:total")
            return
        full = self._redis.hlen("ignored") >= SHOWN and not self._redis.hexists("ignored", key)
        if full or self._redis.hset("ignored", key, _entry(reason, now)):
            self._redis.incr("ignored:total")

    def replace(self, first: Mapping[str, tuple[str, int]], total: int) -> None:
        """What a sweep has found: key -> (reason, LastModified) of the first hundred, and how many there are."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete("ignored").set("ignored:total", total)
            for key, (reason, since) in first.items():
                pipe.hset("ignored", key, _entry(reason, since))
            pipe.execute()


def _entry(reason: str, since: float) -> str:
    return json.dumps({"reason": reason, "since": int(since)})
