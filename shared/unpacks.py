"""The records of bundles that are unpacked, in Redis: one at a time; anyone may ask how far it is.

unpack:<id>    hash     bundle, state, started_at, finished_at, done, total, users, ignored, marked_at, error; kept for
                        a week
unpack:all     zset     id -> when it was started (Unix seconds); the newest thousand
unpack:marked  set      ids whose users are marked, and not all published as far as anybody has looked
unpack:alive   string   the token of the process that unpacks, for a minute at a time
unpack:old     hash     bundle -> what was unpacked of it before, whose users are not all marked yet
unpack:tries   hash     id -> how often it was begun and came to no end
since:bundle   zset     the users of bundles who are not published yet
since:unpack   zset     the bundles that are not unpacked yet, by `shared.keys.bundle_id`

The id is that of the bundle's version: the same archive under the same key has the same one.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from shared.keys import bundle_key

_FINISH = """
local finished = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local record = 'unpack:' .. id
  local state, marked_at = unpack(redis.call('HMGET', record, 'state', 'marked_at'))
  if state ~= 'publishing' then
    redis.call('SREM', KEYS[1], id)
  elseif redis.call('ZCOUNT', KEYS[2], '-inf', marked_at) == 0 then
    redis.call('SREM', KEYS[1], id)
    redis.call('HSET', record, 'state', 'done', 'finished_at', ARGV[1])
    table.insert(finished, id)
  end
end
return finished
"""

DIRTY_SINCE, WAITING_SINCE = "since:bundle", "since:unpack"
KEPT_S = 7 * 24 * 3600
MOST_LISTED = 1000
ALIVE_MS = 60_000


@dataclass(frozen=True, slots=True)
class UnpackStatus:
    """How far a bundle is; times in Unix seconds, None where it has not come to that.

    `state`: unpacking (`done` of `total` members; None while only the end of a tar tells how many there are),
    publishing (its members are visible, `published` of `users` have their rows), done; rejected or failed with an
    `error`; removed, when the archive was deleted.  `ignored` members are nobody's files.
    """

    task_id: str
    bundle: str
    state: str
    done: int
    total: int | None
    users: int
    published: int
    ignored: int
    started_at: float | None
    finished_at: float | None
    error: str | None


class Unpacks:
    """The records.  Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._finish = client.register_script(_FINISH)

    # -- one at a time -----------------------------------------------------------------------------------------------
    def take(self, token: str) -> bool:
        """Be the process that unpacks; False if another is."""
        return bool(self._redis.set("unpack:alive", token, nx=True, px=ALIVE_MS))

    def still_alive(self) -> None:
        """Say that it goes on, at least once a minute."""
        self._redis.pexpire("unpack:alive", ALIVE_MS)

    def give_back(self, token: str) -> None:
        """Be no longer the process that unpacks."""
        if self._redis.get("unpack:alive") == token.encode():
            self._redis.delete("unpack:alive")

    def alive(self) -> bool:
        """Whether a process unpacks."""
        return bool(self._redis.exists("unpack:alive"))

    # -- one bundle --------------------------------------------------------------------------------------------------
    def begin(self, task_id: str, bundle: str, now: float) -> int:
        """Note that a version of a bundle is being unpacked; the how manieth try that is."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(f"unpack:{task_id}")
            pipe.hset(
                f"unpack:{task_id}", mapping={"bundle": bundle, "state": "unpacking", "started_at": now, "done": 0}
            )
            pipe.expire(f"unpack:{task_id}", KEPT_S)
            pipe.zadd("unpack:all", {task_id: now}).zremrangebyrank("unpack:all", 0, -MOST_LISTED - 1)
            *_, tries = pipe.hincrby("unpack:tries", task_id, 1).execute()
        return int(tries)

    def end(self, task_id: str) -> None:
        """This try came to an end, whatever end."""
        self._redis.hdel("unpack:tries", task_id)

    def pardon(self, task_id: str, tries: int) -> None:
        """Let it be begun once more, as if so many tries had been made."""
        self._redis.hset("unpack:tries", task_id, tries)

    def is_pardoned(self, task_id: str) -> bool:
        """Whether `pardon` was called, and it was not begun since."""
        return bool(self._redis.hexists("unpack:tries", task_id))

    def progress(self, task_id: str, done: int, total: int | None) -> None:
        """So many members are done."""
        told: dict[str, str | float] = {"done": done} if total is None else {"done": done, "total": total}
        self._tell(task_id, told)

    def visible(self, task_id: str, users: int, ignored: int, now: float) -> None:
        """Its users are marked."""
        self._tell(task_id, {"state": "publishing", "users": users, "ignored": ignored, "marked_at": now})
        self._redis.sadd("unpack:marked", task_id)

    def finish(self, now: float) -> list[str]:
        """Call those done whose users are all published; their ids."""
        return [_text(task_id) for task_id in self._finish(["unpack:marked", DIRTY_SINCE], [now])]

    def close(self, task_id: str, state: str, now: float, error: str = "") -> None:
        """Nothing more is to come: rejected, failed or removed."""
        told: dict[str, str | float] = {"state": state, "finished_at": now}
        if error:
            told["error"] = error
        self._tell(task_id, told)

    def _tell(self, task_id: str, told: Mapping[str, str | float]) -> None:
        if self._redis.exists(f"unpack:{task_id}"):  # else it was forgotten, as it is old
            self._redis.hset(f"unpack:{task_id}", mapping=told)

    # -- what was visible before -------------------------------------------------------------------------------------
    def note_old(self, bundle: str, digests: Iterable[str]) -> None:
        """Before what is visible changes: what was, whose users are to be marked."""
        self._redis.hset("unpack:old", bundle, json.dumps(sorted({*digests, *(self.old(bundle) or ())} - {""})))

    def old(self, bundle: str) -> list[str] | None:
        """What `note_old` noted; None if nothing is, or all is marked."""
        noted = self._redis.hget("unpack:old", bundle)
        return None if noted is None else list(json.loads(noted))

    def forget_old(self, bundle: str, digests: Iterable[str]) -> None:
        """All are marked who were in these; unless more was noted since."""
        script = "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end"
        self._redis.eval(script, 1, "unpack:old", bundle, json.dumps(sorted(digests)))

    # -- to ask ------------------------------------------------------------------------------------------------------
    def waiting(self) -> list[str]:
        """The keys of the bundles that are not unpacked, or not published as rejects; the oldest first."""
        found = (bundle_key(_text(bundle)) for bundle in self._redis.zrange(WAITING_SINCE, 0, MOST_LISTED))
        return [key for key in found if key is not None]

    def get(self, task_id: str) -> UnpackStatus | None:
        """The record of this id, or None if there is none (any more)."""
        record = self._redis.hgetall(f"unpack:{task_id}")
        return self._status(task_id, record) if record else None

    def _status(self, task_id: str, record: Mapping[bytes, bytes]) -> UnpackStatus:
        fields = {_text(name): _text(value) for name, value in record.items()}
        state, users = fields["state"], int(fields.get("users", 0))
        left = 0
        if state == "publishing":
            left = self._redis.zcount(DIRTY_SINCE, "-inf", fields["marked_at"])
        total = int(fields["total"]) if "total" in fields else None
        times = [float(fields[name]) if name in fields else None for name in ("started_at", "finished_at")]
        published = max(0, users - left)
        done = int(fields["done"])
        ignored, error = int(fields.get("ignored", 0)), fields.get("error")
        started_at, finished_at = times
        return UnpackStatus(
            task_id, fields["bundle"], state, done, total, users, published, ignored, started_at, finished_at, error
        )

    def newest(self, most: int) -> list[UnpackStatus]:
        """So many records, the newest first."""
        task_ids = [_text(task_id) for task_id in self._redis.zrevrange("unpack:all", 0, most - 1)]
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.hgetall(f"unpack:{task_id}")
            records = pipe.execute()
        return [self._status(task_id, record) for task_id, record in zip(task_ids, records, strict=True) if record]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
