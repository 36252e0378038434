"""Records of full rebuilds in Redis. At most one rebuild runs and one is queued.

The worker writes the records. The API requests rebuilds and reports their progress.

rebuild:<id>      hash     state, queued_at, started_at, finished_at, total, named, error;
                           TTL: a week
rebuild:queued    string   ID of the queued rebuild
rebuild:running   string   ID of the running rebuild
rebuild:alive     string   lease of the process that enqueues the rebuild's users: the rebuild's ID;
                           TTL: a minute
since:rebuild     zset     the rebuild's users that are not published yet
"""

import secrets
from dataclasses import dataclass
from typing import Any

from redis import Redis

DIRTY_SINCE = "since:rebuild"
KEPT_S = 7 * 24 * 3600
ALIVE_MS = 60_000

# KEYS: rebuild:queued. ARGV: new ID, now, TTL in seconds. Returns the queued ID, 1 if it is new.
_REQUEST = """
local waiting = redis.call('GET', KEYS[1])
if waiting then return {waiting, 0} end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'queued', 'queued_at', ARGV[2])
redis.call('EXPIRE', 'rebuild:' .. ARGV[1], ARGV[3])
return {ARGV[1], 1}
"""
# KEYS: rebuild:queued, rebuild:running. ARGV: ID, now. Returns the ID of the running rebuild.
_START = """
local running = redis.call('GET', KEYS[2])
if running then return running end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'running', 'started_at', ARGV[2])
return ARGV[1]
"""
# KEYS: rebuild:running, since:rebuild. ARGV: now. Requires `named`, because until then more users
# may be added.
_FINISH = """
local id = redis.call('GET', KEYS[1])
if not id or redis.call('HEXISTS', 'rebuild:' .. id, 'named') == 0 then return false end
if redis.call('ZCARD', KEYS[2]) > 0 then return false end
redis.call('HSET', 'rebuild:' .. id, 'state', 'done', 'finished_at', ARGV[1])
redis.call('DEL', KEYS[1])
return id
"""
# KEYS: rebuild:running. ARGV: ID, now, reason. Compares the ID, so a late failure cannot end the
# next rebuild.
_FAIL = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'failed', 'finished_at', ARGV[2], 'error', ARGV[3])
redis.call('DEL', KEYS[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """The progress of a rebuild: `done` of `total` users are published; times are in Unix seconds.

    `state` is queued, running, done or failed. `total` stays None until it is set.
    """

    task_id: str
    state: str
    done: int
    total: int | None
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    error: str | None


class Rebuilds:
    """The records of rebuilds.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._request = client.register_script(_REQUEST)
        self._start = client.register_script(_START)
        self._finish = client.register_script(_FINISH)
        self._fail = client.register_script(_FAIL)

    def request(self, now: float) -> tuple[str, bool]:
        """Queue a rebuild unless one is queued already. `now` is in Unix seconds.

        Returns the ID of the queued rebuild, and whether this call queued it.
        """
        task_id, new = self._request(["rebuild:queued"], [secrets.token_hex(8), now, KEPT_S])
        return _text(task_id), bool(new)

    def start(self, task_id: str, now: float) -> bool:
        """Move the queued rebuild to running.

        Returns True if it runs now, also if it did before. Returns False if another rebuild runs,
        or this one has ended.
        """
        running = self._start(["rebuild:queued", "rebuild:running"], [task_id, now])
        return running is not None and _text(running) == task_id

    def begin_naming(self, task_id: str) -> bool:
        """Acquire the lease to enqueue this rebuild's users.

        Returns False if they are all enqueued, or another process holds the lease.
        """
        if self.named(task_id):
            return False
        return bool(self._redis.set("rebuild:alive", task_id, nx=True, px=ALIVE_MS))

    def still_alive(self) -> None:
        """Renew the lease. The holder must call this at least once a minute."""
        self._redis.pexpire("rebuild:alive", ALIVE_MS)

    def end_naming(self) -> None:
        """Release the lease, whether or not all users were enqueued."""
        self._redis.delete("rebuild:alive")

    def naming(self) -> bool:
        """Return whether a process holds the lease."""
        return bool(self._redis.exists("rebuild:alive"))

    def set_total(self, task_id: str, total: int) -> None:
        """Record the number of users in the rebuild, as far as it is known."""
        self._redis.hset(f"rebuild:{task_id}", "total", total)

    def set_named(self, task_id: str) -> None:
        """Record that all users of the rebuild are marked and enqueued."""
        self._redis.hset(f"rebuild:{task_id}", "named", 1)

    def named(self, task_id: str) -> bool:
        """Return whether `set_named` was called for this rebuild."""
        return bool(self._redis.hexists(f"rebuild:{task_id}", "named"))

    def finish(self, now: float) -> str | None:
        """Set the running rebuild to done if all its users are enqueued and published.

        Returns its ID, or None if no rebuild finished.
        """
        task_id = self._finish(["rebuild:running", DIRTY_SINCE], [now])
        return _text(task_id) if task_id else None

    def fail(self, task_id: str, reason: str, now: float) -> None:
        """Set the running rebuild to failed, with a reason.

        The users that it has marked stay dirty and are read by the ordinary retries.
        """
        self._fail(["rebuild:running"], [task_id, now, reason])

    def queued(self) -> str | None:
        """Return the ID of the queued rebuild, or None."""
        return _maybe(self._redis.get("rebuild:queued"))

    def running(self) -> str | None:
        """Return the ID of the running rebuild, or None."""
        return _maybe(self._redis.get("rebuild:running"))

    def get(self, task_id: str) -> RebuildStatus | None:
        """Return the record of a rebuild, or None if it does not exist or has expired."""
        with self._redis.pipeline(transaction=True) as pipe:
            record, dirty = pipe.hgetall(f"rebuild:{task_id}").zcard(DIRTY_SINCE).execute()
        if not record:
            return None
        fields = {_text(name): _text(value) for name, value in record.items()}
        state, total = fields["state"], int(fields["total"]) if "total" in fields else None
        left = dirty if state == "running" else 0
        # Users are marked before `total` is updated, so `left` may exceed it for a moment.
        done = 0 if total is None else max(0, total - left)
        times = [float(fields[name]) if name in fields else None for name in ("queued_at", "started_at", "finished_at")]
        return RebuildStatus(task_id, state, done, total, times[0], times[1], times[2], fields.get("error"))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _maybe(value: bytes | str | None) -> str | None:
    return None if value is None else _text(value)
