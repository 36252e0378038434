"""Ignored keys: objects in the source bucket that belong to no user, for `/errors`.

At most 100 keys are listed; all are counted. Each sweep replaces list and count. In between, the
listener updates them from events, only approximately, so `/errors` shows immediately why `1.CSV`
has no row.
"""

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from shared.redis_keys import IGNORED_COUNT, IGNORED_KEYS

MAX_LISTED_IGNORED = 100
"""Maximum number of keys that are listed. Further ones are only counted."""


class IgnoredKeys:
    """The list of ignored keys.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def record_event(self, key: str, reason: str, event_name: str, now: float) -> None:
        """Update the list from an event about an ignored key. `now` is in Unix seconds."""
        if event_name.startswith("s3:ObjectRemoved"):
            if self._redis.hdel(IGNORED_KEYS, key):
                self._redis.decr(IGNORED_COUNT)
            return
        # HSET returns 0 for a key that is already listed. A key beyond the limit is counted with
        # each event, until the next sweep replaces the total.
        is_full = self._redis.hlen(IGNORED_KEYS) >= MAX_LISTED_IGNORED and not self._redis.hexists(
            IGNORED_KEYS, key
        )
        if is_full or self._redis.hset(IGNORED_KEYS, key, _encode_entry(reason, now)):
            self._redis.incr(IGNORED_COUNT)

    def replace(self, listed: Mapping[str, tuple[str, int]], total: int) -> None:
        """Replace the list by what a sweep found.

        `listed` maps up to 100 keys to reason and LastModified in Unix seconds. `total` counts all.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(IGNORED_KEYS).set(IGNORED_COUNT, total)
            for key, (reason, since) in listed.items():
                pipe.hset(IGNORED_KEYS, key, _encode_entry(reason, since))
            pipe.execute()


def _encode_entry(reason: str, since: float) -> str:
    return json.dumps({"reason": reason, "since": int(since)})
