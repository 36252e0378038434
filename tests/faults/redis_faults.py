"""Faults of Redis, and the passage of time in it."""

from typing import Any

from redis import Redis

from shared.redis_keys import WRITER_LEASE
from tests.faults.monitor import ProtocolMonitor
from tests.faults.oracle import Oracle

_PASS_TIME_SCRIPT = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= tonumber(ARGV[1]) then
    redis.call('DEL', key)
  elseif left >= 0 then
    redis.call('PEXPIRE', key, left - ARGV[1])
  end
end
"""


class RedisFaults:
    """Injects faults into one Redis. `run_number` counts the starts of the server."""

    def __init__(self, redis: "Redis", monitor: ProtocolMonitor, oracle: Oracle) -> None:
        self._redis: Any = redis
        self._monitor = monitor
        self._oracle = oracle
        self._saved: dict[bytes, tuple[bytes, int]] = {}
        self.run_number = 1

    def pass_time(self, seconds: float) -> None:
        """Shorten all TTLs by this many seconds, and delete the keys that expire."""
        self._redis.eval(_PASS_TIME_SCRIPT, 0, int(seconds * 1000))
        if not self._redis.exists(WRITER_LEASE):
            self._monitor.record_lost_lease()

    def flush(self) -> None:
        """Empty Redis, as FLUSHALL does."""
        self._redis.flushall()
        self._monitor.record_lost_lease()

    def save_state(self) -> None:
        """Take the snapshot to which `restore_saved_state` returns, like a synced AOF file."""
        keys = self._redis.keys("*")
        with self._redis.pipeline() as pipe:
            for key in keys:
                pipe.dump(key).pttl(key)
            answers = pipe.execute()
        self._saved = {
            key: (answers[2 * position], answers[2 * position + 1])
            for position, key in enumerate(keys)
        }

    def restore_saved_state(self) -> None:
        """Kill and restart Redis with its last snapshot.

        Writes after the snapshot are lost, so older rows may be served for a moment.
        """
        with self._redis.pipeline() as pipe:
            pipe.flushall()
            for key, (dump, ttl_ms) in self._saved.items():
                pipe.restore(key, max(0, ttl_ms), dump)
            pipe.execute()
        self.run_number += 1
        self._monitor.record_lost_lease()
        self._oracle.allow_older_rows()
