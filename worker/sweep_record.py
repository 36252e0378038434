"""What is known of sweeps in Redis: the last one, the one that runs, and why the next one is due.

sweep          hash     of the last one: last_at (Unix seconds), last_cause, last_objects, last_marked, figures
sweep:alive    string   the token of the one that runs, for a minute at a time
sweep:queued   string   the cause of the one that waits
"""

from typing import Any

from redis import Redis

from shared.task_queue import TaskQueue

ALIVE_MS = 60_000
QUEUED_S = 120


class SweepRecord:
    """What is known of sweeps in Redis: hash `sweep` (the last one), `sweep:alive`, `sweep:queued`."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def get(self, field: str) -> str | None:
        """A figure of the last sweep."""
        value = self._redis.hget("sweep", field)
        return None if value is None else value.decode()

    def request(self, tasks: TaskQueue, cause: str) -> None:
        """Enqueue a sweep, unless one waits already."""
        if self._redis.set("sweep:queued", cause, nx=True, ex=QUEUED_S):
            tasks.sweep(cause)

    def begin(self, token: str) -> bool:
        """Be the sweep that runs; False if another does."""
        self._redis.delete("sweep:queued")
        return bool(self._redis.set("sweep:alive", token, nx=True, px=ALIVE_MS))

    def still_alive(self) -> None:
        """Say so, at least once a minute."""
        self._redis.pexpire("sweep:alive", ALIVE_MS)

    def end(self, token: str) -> None:
        """Be no longer the sweep that runs."""
        if self._redis.get("sweep:alive") == token.encode():
            self._redis.delete("sweep:alive")

    def alive(self) -> bool:
        """Whether a sweep runs."""
        return bool(self._redis.exists("sweep:alive"))

    def waits(self) -> bool:
        """Whether one was asked for, and has not begun."""
        return bool(self._redis.exists("sweep:queued"))
