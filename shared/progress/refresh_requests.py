"""Requests to refresh one user, made through the API (`POST /data/{user_id}`).

The worker records that the user is marked. From then on the API polls until the user is published.

A record expires after 15 minutes, which is longer than any client waits.
"""

import secrets
from typing import Any

from redis import Redis

from shared.redis_keys import CHANGE_VERSIONS, REFRESH_REQUEST_PREFIX

REFRESH_REQUEST_TTL_S = 900
"""Seconds for which the record of a request is kept."""


class RefreshRequests:
    """The records of refresh requests.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    @staticmethod
    def new_id() -> str:
        """Return a new random request ID."""
        return secrets.token_hex(8)

    def record_marked(self, request_id: str) -> None:
        """Record that the user is marked: everything dropped before now will be read."""
        self._redis.set(REFRESH_REQUEST_PREFIX + request_id, 1, ex=REFRESH_REQUEST_TTL_S)

    def is_published(self, request_id: str, user_id: str) -> bool:
        """Return whether the user was marked for this request and is no longer dirty."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.exists(REFRESH_REQUEST_PREFIX + request_id)
            pipe.hexists(CHANGE_VERSIONS, user_id)
            is_marked, is_dirty = pipe.execute()
        return bool(is_marked) and not is_dirty
