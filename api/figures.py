"""What the pipeline says of itself in Redis, as last heard; kept in memory, so that it is known in an outage too."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis

CAUSES = ("event", "sweep", "rebuild")
MOST_DEAD_LETTERS = 1000


class Trouble(NamedTuple):
    """A key that is ignored or an event that could not be decoded: `key` None if not even that is known.

    `since` is in whole seconds since 1970 UTC.
    """

    key: str | None
    reason: str
    since: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One reading; times in Unix seconds, None for "never" or "nobody".

    `dirty` counts users per cause that are not yet published; `whole` is whether nothing is known to be lost;
    `sees_losses` is False where MinIO does not tell whether it lost events; `notified` whether its events
    reach Redis at all; `source_failure` is why the source bucket
    could not be read lately.
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


def read_figures(client: "Redis") -> Figures:
    """Ask Redis, in one round trip.  Raises `redis.exceptions.RedisError`."""
    redis: Any = client
    with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall("ignored").get("ignored:total").lrange("dead_letters", -MOST_DEAD_LETTERS, -1)
        pipe.zrange("since:event", 0, 0, withscores=True).hget("published", "time")
        pipe.hmget("sweep", "last_at", "figures").get("epoch").get("source_failure")
        pipe.get("notifications")
        for cause in CAUSES:
            pipe.zcard(f"since:{cause}")
        ignored, total, letters, oldest, published, (sweep_at, server_figures), epoch, failure, told, *dirty = (
            pipe.execute()
        )
    return Figures(
        ignored=tuple(_trouble(entry, _text(key)) for key, entry in sorted(ignored.items())),
        ignored_total=int(total or 0),
        dead_letters=tuple(_trouble(entry) for entry in letters),
        dirty=dict(zip(CAUSES, dirty, strict=True)),
        oldest_event=oldest[0][1] if oldest else None,
        published_at=_seconds(published),
        sweep_at=_seconds(sweep_at),
        whole=_text(epoch or b"").startswith("ok:"),
        sees_losses=bool(server_figures) or sweep_at is None,
        notified=_text(told or b"") != "none",
        source_failure=_text(failure) if failure else None,
    )


def _trouble(entry: bytes | str, key: str | None = None) -> Trouble:
    fields = json.loads(entry)
    return Trouble(key if key is not None else fields.get("key"), fields["reason"], int(fields["since"]))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _seconds(value: bytes | str | None) -> float | None:
    return float(value) if value else None
