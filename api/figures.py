"""The status of the pipeline, read from Redis.

Each API process caches the last answer in its view, so the status is available during an outage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis import Redis

CAUSES = ("event", "sweep", "rebuild", "bundle", "unpack")
"""The causes for which a user is dirty.

"bundle": a bundle of the user was unpacked or removed. "unpack": the entries are not users but the
IDs of the bundles that wait to be unpacked.
"""
MOST_DEAD_LETTERS = 1000

# Returns the number of events in the two lists of the event inbox, and a digest of their first
# entries. A changed digest shows that the listener processes events. An entry may have any size, so
# only its digest is returned. The lists are in ARGV and not in KEYS, because Redis requires write
# permission for KEYS, and the API may only read these lists (least privilege).
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
    """An ignored key, or a dead letter (an event that could not be decoded).

    `key` may be unknown (None). `since` is in whole Unix seconds.
    """

    key: str | None
    reason: str
    since: int


class LastSweep(NamedTuple):
    """The last sweep that completed, i.e. marked all users that it found.

    `at` is its start in Unix seconds, `cause` its reason, `objects` the number of objects in the
    source bucket, `marked` the number of users that it marked.
    """

    at: float
    cause: str
    objects: int
    marked: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A snapshot of the pipeline's status. Times are in Unix seconds, None for "never"."""

    ignored: tuple[Trouble, ...]
    """The ignored keys that Redis lists, sorted by key. There may be more, see `ignored_total`."""
    ignored_total: int
    dead_letters: tuple[Trouble, ...]
    """The newest events that could not be decoded, at most `MOST_DEAD_LETTERS`."""
    dirty: Mapping[str, int]
    """The number of dirty users by cause."""
    oldest_event: float | None
    """The oldest mark among the users that are dirty because of an event, None without any."""
    published_at: float | None
    sweep_at: float | None
    """The start of the last completed sweep."""
    whole: bool
    """Whether the trust state is verified: no loss was detected, and no sweep is running."""
    sees_losses: bool
    """False if the last sweep had no metrics of MinIO, without which losses are not detected."""
    notified: bool = True
    """Whether MinIO's events reach this Redis."""
    source_failure: str | None = None
    """Why the source bucket could not be read recently."""
    sound: bool = True
    """Whether no loss is known. An hourly sweep, which has no loss signal, may be running."""
    sweep: LastSweep | None = None
    waiting: int = 0
    """The number of unprocessed events in Redis."""
    heads: str = ""
    """A digest of the first unprocessed events."""
    published_etag: str | None = None
    """The ETag of the `output.csv` that was published last."""
    stuck_copies: int = 0
    """The length of MinIO's queue of durable events if that queue is stalled, else 0."""
    evidence: Mapping[str, int] = field(default_factory=dict)
    """The number of loss signals by kind, since `counting_since`."""
    healed: int = 0
    """The number of silent repairs, since `counting_since`."""
    counting_since: float | None = None


def read_figures(client: "Redis") -> Figures:
    """Read the status from Redis in one round trip. Raises `redis.exceptions.RedisError`."""
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
        # Before the first sweep there are no metrics to compare with, which is no defect.
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
