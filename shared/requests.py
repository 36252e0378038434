"""Requests to read one user anew: the worker says when the user was marked, the API when that is published.

asked:<id>   string   the user of the request was marked; kept for as long as anybody waits for it
"""

import secrets
from typing import Any

from redis import Redis

KEPT_S = 900


class Requests:
    """Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    @staticmethod
    def new_id() -> str:
        """The id of a request."""
        return secrets.token_hex(8)

    def note_marked(self, request_id: str) -> None:
        """Say that the user is marked: whatever was dropped before will be read."""
        self._redis.set(f"asked:{request_id}", 1, ex=KEPT_S)

    def is_published(self, request_id: str, user_id: str) -> bool:
        """Whether the user was marked, and is dirty no more."""
        with self._redis.pipeline(transaction=True) as pipe:
            marked, dirty = pipe.exists(f"asked:{request_id}").hexists("dirty", user_id).execute()
        return bool(marked) and not dirty
