"""What the pipeline says of itself in Redis, as last heard; kept in memory, so that it is known in an outage too."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis import Redis

CAUSES = ("event", "sweep", "rebuild", "bundle", "unpack")
"""Why a user is dirty; "bundle": one was unpacked or has gone.  Of "unpack" are the bundles that wait for it."""
MOST_DEAD_LETTERS = 1000

# How many events wait in the two lists, and what their heads are: another head means that somebody notes events.  An
# entry may have any size, so it is not fetched.  The lists are arguments and no keys: Redis takes keys of a script for
# keys that are written, and the API may only read these.
_WAITING = """
local waiting, heads = 0, ''
for _, list in ipairs(ARGV) do
  waiting = waiting + redis.call('LLEN', list)
  local head = redis.call('LINDEX', list, 0)
  if head then heads = heads .. redis.sha1hex(#head .. string.sub(head, 1, 2000)) end
end
return {waiting, heads}
"""


class Trouble(NamedTuple):
    """A key that is ignored or an event that could not be decoded: `key` None if not even that is known.

    `since` is in whole seconds since 1970 UTC.
    """

    key: str | None
    reason: str
    since: int


class LastSweep(NamedTuple):
    """The last sweep whose users were all marked: when it began (Unix seconds), why, what it saw, whom it marked."""

    at: float
    cause: str
    objects: int
    marked: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One reading; times in Unix seconds, None for "never" or "nobody".

    `dirty` counts users per cause that are not yet published.  `sound` is whether nothing is known to be lost: a sweep
    may be looking all the same, as it does every hour; `whole`, that none is.  `sees_losses` is False where MinIO does
    not tell whether it lost events; `notified` whether its events reach Redis at all; `source_failure` is why the
    source bucket could not be read lately; `stuck_copies` how many safe copies of events MinIO cannot get rid of.
    `waiting` events are in Redis and not noted; `heads` stands for the first of them.  `published_etag` is the ETag of
    the output.csv that was published last.  `evidence` counts evidence of losses by its kind, and `healed` the users
    who were lost and are healed, both since `counting_since`.
    """

    ignored: tuple[Trouble, ...]
    ignored_total: int
    dead_letters: tuple[Trouble, ...]
    dirty: Mapping[str, int]
    oldest_event: float | None
    published_at: float | None
    sweep_at: float | None
    whole: bool
    sees_losses: bool
    notified: bool = True
    source_failure: str | None = None
    sound: bool = True
    sweep: LastSweep | None = None
    waiting: int = 0
    heads: str = ""
    published_etag: str | None = None
    stuck_copies: int = 0
    evidence: Mapping[str, int] = field(default_factory=dict)
    healed: int = 0
    counting_since: float | None = None


def read_figures(client: "Redis") -> Figures:
    """Ask Redis, in one round trip.  Raises `redis.exceptions.RedisError`."""
    redis: Any = client
    with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall("ignored").get("ignored:total").lrange("dead_letters", -MOST_DEAD_LETTERS, -1)
        pipe.zrange("since:event", 0, 0, withscores=True).hmget("published", "time", "etag").hgetall("sweep")
        pipe.get("epoch").exists("evidence:new", "evidence:looked").hgetall("counters")
        pipe.get("source_failure").get("notifications").get("safe_queue")
        pipe.eval(_WAITING, 0, "events:fast", "events:safe")
        for cause in CAUSES:
            pipe.zcard(f"since:{cause}")
        answers = pipe.execute()
    (
        ignored,
        total,
        letters,
        oldest,
        published,
        sweep,
        epoch,
        evidence,
        counters,
        failure,
        told,
        stuck,
        events,
        *dirty,
    ) = answers
    fields = {_text(name): _text(value) for name, value in sweep.items()}
    counted = {_text(name): _text(value) for name, value in counters.items()}
    return Figures(
        ignored=tuple(_trouble(entry, _text(key)) for key, entry in sorted(ignored.items())),
        ignored_total=int(total or 0),
        dead_letters=tuple(_trouble(entry) for entry in letters),
        dirty=dict(zip(CAUSES, dirty, strict=True)),
        oldest_event=oldest[0][1] if oldest else None,
        published_at=_seconds(published[0]),
        sweep_at=_seconds(fields.get("last_at")),
        whole=_text(epoch or b"").startswith("ok:"),
        sees_losses=bool(fields.get("figures")) or "last_at" not in fields,
        notified=_text(told or b"") != "none",
        source_failure=_text(failure) if failure else None,
        sound=epoch is not None and not evidence,
        sweep=_last_sweep(fields),
        waiting=events[0],
        heads=_text(events[1]),
        published_etag=_text(published[1]) if published[1] else None,
        stuck_copies=int(stuck or 0),
        evidence=_evidence(counted),
        healed=int(counted.get("lost_and_healed", 0)),
        counting_since=_seconds(counted.get("since")),
    )


def _last_sweep(fields: Mapping[str, str]) -> LastSweep | None:
    if "last_at" not in fields:
        return None
    numbers = [int(fields.get(name, 0)) for name in ("last_objects", "last_marked")]
    return LastSweep(float(fields["last_at"]), fields.get("last_cause", ""), *numbers)


def _evidence(counted: Mapping[str, str]) -> dict[str, int]:
    names = sorted(name for name in counted if name.startswith("evidence:"))
    return {name.removeprefix("evidence:"): int(counted[name]) for name in names}


def _trouble(entry: bytes | str, key: str | None = None) -> Trouble:
    fields = json.loads(entry)
    return Trouble(key if key is not None else fields.get("key"), fields["reason"], int(fields["since"]))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _seconds(value: bytes | str | None) -> float | None:
    return float(value) if value else None
