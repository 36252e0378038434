"""The records of full rebuilds in Redis: at most one runs and one waits; anyone may ask how far it is.

rebuild:<id>      hash     state, queued_at, started_at, finished_at, total, named, error; kept for a week
rebuild:queued    string   the id of the one that waits
rebuild:running   string   the id of the one that runs
rebuild:alive     string   its id, for a minute at a time, while a process names its users
since:rebuild     zset     its users that are not published yet
"""

import secrets
from dataclasses import dataclass
from typing import Any

from redis import Redis

DIRTY_SINCE = "since:rebuild"
KEPT_S = 7 * 24 * 3600
ALIVE_MS = 60_000

_REQUEST = """
local waiting = redis.call('GET', KEYS[1])
if waiting then return {waiting, 0} end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'queued', 'queued_at', ARGV[2])
redis.call('EXPIRE', 'rebuild:' .. ARGV[1], ARGV[3])
return {ARGV[1], 1}
"""
_START = """
local running = redis.call('GET', KEYS[2])
if running then return running end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'running', 'started_at', ARGV[2])
return ARGV[1]
"""
_FINISH = """
local id = redis.call('GET', KEYS[1])
if not id or redis.call('HEXISTS', 'rebuild:' .. id, 'named') == 0 then return false end
if redis.call('ZCARD', KEYS[2]) > 0 then return false end
redis.call('HSET', 'rebuild:' .. id, 'state', 'done', 'finished_at', ARGV[1])
redis.call('DEL', KEYS[1])
return id
"""
_FAIL = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', 'rebuild:' .. ARGV[1], 'state', 'failed', 'finished_at', ARGV[2], 'error', ARGV[3])
redis.call('DEL', KEYS[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """How far a rebuild is: `state` queued, running, done or failed; users `done` of `total`; times in Unix seconds."""

    task_id: str
    state: str
    done: int
    total: int | None
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    error: str | None


class Rebuilds:
    """The records of rebuilds.  Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._request = client.register_script(_REQUEST)
        self._start = client.register_script(_START)
        self._finish = client.register_script(_FINISH)
        self._fail = client.register_script(_FAIL)

    def request(self, now: float) -> tuple[str, bool]:
        """The id of the rebuild that waits, and whether this call has queued it."""
        task_id, new = self._request(["rebuild:queued"], [secrets.token_hex(8), now, KEPT_S])
        return _text(task_id), bool(new)

    def start(self, task_id: str, now: float) -> bool:
        """Take the waiting rebuild up.  True if it now runs (or already did); False if another runs, or it is over."""
        running = self._start(["rebuild:queued", "rebuild:running"], [task_id, now])
        return running is not None and _text(running) == task_id

    def begin_naming(self, task_id: str) -> bool:
        """Be the process that names the users; False if that was done, or another is at it."""
        if self.named(task_id):
            return False
        return bool(self._redis.set("rebuild:alive", task_id, nx=True, px=ALIVE_MS))

    def still_alive(self) -> None:
        """Say that the naming goes on, at least once a minute."""
        self._redis.pexpire("rebuild:alive", ALIVE_MS)

    def end_naming(self) -> None:
        """Be no longer the process that names the users, whether or not it was done."""
        self._redis.delete("rebuild:alive")

    def naming(self) -> bool:
        """Whether a process is naming the users."""
        return bool(self._redis.exists("rebuild:alive"))

    def set_total(self, task_id: str, total: int) -> None:
        """How many users the rebuild has, as far as is known."""
        self._redis.hset(f"rebuild:{task_id}", "total", total)

    def set_named(self, task_id: str) -> None:
        """All users of the rebuild are marked, and on their way."""
        self._redis.hset(f"rebuild:{task_id}", "named", 1)

    def named(self, task_id: str) -> bool:
        """Whether `set_named` was called."""
        return bool(self._redis.hexists(f"rebuild:{task_id}", "named"))

    def finish(self, now: float) -> str | None:
        """Call the running rebuild done if nothing of it is left; its id, or None."""
        task_id = self._finish(["rebuild:running", DIRTY_SINCE], [now])
        return _text(task_id) if task_id else None

    def fail(self, task_id: str, reason: str, now: float) -> None:
        """Give a running rebuild up.  Whoever it has marked stays dirty, and is read again by the ordinary way."""
        self._fail(["rebuild:running"], [task_id, now, reason])

    def queued(self) -> str | None:
        """The id of the rebuild that waits."""
        return _maybe(self._redis.get("rebuild:queued"))

    def running(self) -> str | None:
        """The id of the rebuild that runs."""
        return _maybe(self._redis.get("rebuild:running"))

    def get(self, task_id: str) -> RebuildStatus | None:
        """The record of a rebuild, or None if there is none of this id (any more)."""
        with self._redis.pipeline(transaction=True) as pipe:
            record, dirty = pipe.hgetall(f"rebuild:{task_id}").zcard(DIRTY_SINCE).execute()
        if not record:
            return None
        fields = {_text(name): _text(value) for name, value in record.items()}
        state, total = fields["state"], int(fields["total"]) if "total" in fields else None
        left = dirty if state == "running" else 0
        done = 0 if total is None else max(0, total - left)
        times = [float(fields[name]) if name in fields else None for name in ("queued_at", "started_at", "finished_at")]
        return RebuildStatus(task_id, state, done, total, times[0], times[1], times[2], fields.get("error"))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _maybe(value: bytes | str | None) -> str | None:
    return None if value is None else _text(value)
