"""The registry of live API processes in Redis, with the age of the snapshot that each one serves.

An entry holds when the last complete check of output.csv began, and the last heartbeat. Both are in
Redis time, so that no two clocks are compared.
"""

import os
import secrets
import socket
from typing import Any

from redis import Redis

from shared.redis_keys import API_POLLS, API_PROCESSES, PUBLISH_DONE_CHANNEL
from shared.scripts import Scripts

PROCESS_TIMEOUT_S = 30
"""A process without a heartbeat for this long is presumed dead.

It must be longer than one check of a MinIO that hangs.
"""


class ProcessRegistry:
    """This process's entry in the registry, and queries about all entries.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._send_heartbeat = Scripts(client)["send_heartbeat"]
        # Unique also after a container restarts with the same host name and process IDs.
        self._process_name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    def send_heartbeat(self, poll_started_at: float) -> float:
        """Record a heartbeat, and when the last complete check of output.csv began.

        Returns the current Redis time in seconds. `poll_started_at` is such a time, from an earlier
        heartbeat; 0 before the first complete check.
        """
        return float(
            self._send_heartbeat(
                [API_PROCESSES, API_POLLS], [self._process_name, f"{poll_started_at:.6f}"]
            )
        )

    def unregister(self) -> None:
        """Remove this process from the registry."""
        self._remove(self._process_name)

    def read_clock(self) -> float:
        """Return the current Redis time in seconds."""
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)

    def request_poll(self) -> None:
        """Notify every API process to check output.csv immediately."""
        self._redis.publish(PUBLISH_DONE_CHANNEL, "look")

    def all_polled_since(self, moment: float) -> bool:
        """Return whether every live process has completed a check that began at `moment` or later.

        `moment` is a Redis time in seconds.  Entries of dead processes are removed.  The result is
        False if no process is live.
        """
        polls = self._redis.hgetall(API_POLLS)
        heartbeats = self._redis.hgetall(API_PROCESSES)
        now = self.read_clock()
        poll_starts = []
        for name, heartbeat_at in heartbeats.items():
            if now - float(heartbeat_at) > PROCESS_TIMEOUT_S:
                self._remove(name)
            else:
                # A process that was registered in between has no entry yet.
                poll_starts.append(float(polls.get(name, 0)))
        return bool(poll_starts) and min(poll_starts) >= moment

    def _remove(self, process_name: str | bytes) -> None:
        self._redis.hdel(API_PROCESSES, process_name)
        self._redis.hdel(API_POLLS, process_name)
