"""The status of the pipeline: workers record it in Redis, the API and the command line read it.

Each API process caches the last answer in its view, so the status is available during an outage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis import Redis

from shared.progress.sweep_record import parse_silent_changes
from shared.redis_keys import (
    CAUSES,
    COUNTERS,
    DEAD_LETTERS,
    DIRTY_SINCE,
    EVENTS_AVAILABLE,
    FAST_EVENTS,
    IGNORED_COUNT,
    IGNORED_KEYS,
    LAST_PUBLISH,
    LAST_SWEEP,
    LOSS_SIGNALS,
    LOSS_SIGNALS_IN_SWEEP,
    MAX_DEAD_LETTERS,
    SOURCE_FAILURE,
    TRUST_STATE,
)
from shared.scripts import decode_optional, decode_record, decode_text, parse_time, read_script
from shared.text import format_time

STATUS_TTL_S = 60
"""TTL in seconds of conditions that `/health/ready` reports."""


class PipelineIssue(NamedTuple):
    """An ignored key, or a dead letter (an event that could not be decoded).

    `key` may be unknown (None). `since` is in whole Unix seconds.
    """

    key: str | None
    reason: str
    since: int


class LastSweep(NamedTuple):
    """The last sweep that completed, i.e. marked all users that it found.

    `started_at` is its start in Unix seconds, `cause` its reason, `object_count` the number of
    objects in the source bucket, `marked_count` the number of users that it marked.
    """

    started_at: float
    cause: str
    object_count: int
    marked_count: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields in JSON; the time is in ISO 8601 and UTC."""
        return {
            "at": format_time(self.started_at),
            "cause": self.cause,
            "objects": self.object_count,
            "marked": self.marked_count,
        }


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """A snapshot of the pipeline's status. Times are in Unix seconds, None for "never"."""

    ignored_keys: tuple[PipelineIssue, ...]
    """The ignored keys that Redis lists, sorted by key. There may be more, see `ignored_count`."""
    ignored_count: int
    dead_letters: tuple[PipelineIssue, ...]
    """The newest events that could not be decoded, at most `MAX_DEAD_LETTERS`."""
    dirty_counts: Mapping[str, int]
    """The number of dirty users by cause."""
    oldest_event_mark_at: float | None
    """The oldest mark among the users that are dirty because of an event, None without any."""
    last_publish_at: float | None
    last_sweep_at: float | None
    """The start of the last completed sweep."""
    detects_losses: bool
    """False if the last sweep had no metrics of MinIO, without which losses are not detected."""
    events_available: bool = True
    """Whether MinIO's events reach this Redis."""
    source_failure: str | None = None
    """Why the source bucket could not be read recently."""
    trust_state: str = "suspect"
    """"verified": no known loss. "verifying": a sweep is running. "suspect": a loss is possible."""
    no_known_loss: bool = True
    """Whether no loss is known. An hourly sweep, which has no loss signal, may be running."""
    last_sweep: LastSweep | None = None
    waiting_events: int = 0
    """The number of unprocessed events in Redis."""
    inbox_head: str = ""
    """A digest of the first unprocessed event."""
    published_etag: str | None = None
    """The ETag of the `output.csv` that was published last."""
    loss_signals: Mapping[str, int] = field(default_factory=dict)
    """The number of loss signals by kind, since `counters_since`."""
    silent_repairs: int = 0
    """The number of silent repairs, since `counters_since`."""
    silent_countdown: int = 0
    """How many sweeps must still find no silent change; 0 if none was found lately."""
    counters_since: float | None = None

    @property
    def announces_all_changes(self) -> bool:
        """Whether each change has an event, or else the loss of the event is detected."""
        return self.events_available and self.detects_losses and not self.silent_countdown


def read_pipeline_status(client: "Redis") -> PipelineStatus:
    """Read the status from Redis in one round trip. Raises `redis.exceptions.RedisError`."""
    redis: Any = client
    with redis.pipeline(transaction=False) as pipeline:
        # Each call queues a command. The replies have the same order.
        commands = {
            "ignored_keys": pipeline.hgetall(IGNORED_KEYS),
            "ignored_count": pipeline.get(IGNORED_COUNT),
            "dead_letters": pipeline.lrange(DEAD_LETTERS, -MAX_DEAD_LETTERS, -1),
            "oldest_event_mark": pipeline.zrange(DIRTY_SINCE["event"], 0, 0, withscores=True),
            "last_publish": pipeline.hmget(LAST_PUBLISH, "time", "output_etag"),
            "last_sweep": pipeline.hgetall(LAST_SWEEP),
            "trust_state": pipeline.hget(TRUST_STATE, "state"),
            "loss_signal_keys": pipeline.exists(LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP),
            "counters": pipeline.hgetall(COUNTERS),
            "source_failure": pipeline.get(SOURCE_FAILURE),
            "events_available": pipeline.get(EVENTS_AVAILABLE),
            "events": pipeline.eval(read_script("count_events"), 0, FAST_EVENTS),
            **{_name_dirty(cause): pipeline.zcard(DIRTY_SINCE[cause]) for cause in CAUSES},
        }
        replies = dict(zip(commands, pipeline.execute(), strict=True))
    return _parse_status(replies)


def _name_dirty(cause: str) -> str:
    return f"dirty_{cause}"


def _parse_status(replies: Mapping[str, Any]) -> PipelineStatus:
    sweep = decode_record(replies["last_sweep"])
    counters = decode_record(replies["counters"])
    silent_changes = parse_silent_changes(sweep, int(counters.get("silent_repairs", 0)))
    published_at, published_etag = replies["last_publish"]
    event_count, inbox_head = replies["events"]
    ignored_keys = sorted(replies["ignored_keys"].items())
    oldest_event_mark = replies["oldest_event_mark"]
    return PipelineStatus(
        ignored_keys=tuple(_parse_issue(entry, decode_text(key)) for key, entry in ignored_keys),
        ignored_count=int(replies["ignored_count"] or 0),
        dead_letters=tuple(_parse_issue(entry) for entry in replies["dead_letters"]),
        dirty_counts={cause: replies[_name_dirty(cause)] for cause in CAUSES},
        oldest_event_mark_at=oldest_event_mark[0][1] if oldest_event_mark else None,
        last_publish_at=parse_time(published_at),
        last_sweep_at=parse_time(sweep.get("at")),
        trust_state=decode_text(replies["trust_state"] or b"suspect"),
        # Before the first sweep there are no metrics to compare with, which is no defect.
        detects_losses=bool(sweep.get("metrics")) or "at" not in sweep,
        events_available=replies["events_available"] != b"no",
        source_failure=decode_optional(replies["source_failure"] or None),
        no_known_loss=replies["trust_state"] is not None and not replies["loss_signal_keys"],
        last_sweep=_parse_last_sweep(sweep),
        waiting_events=event_count,
        inbox_head=decode_text(inbox_head),
        published_etag=decode_optional(published_etag or None),
        loss_signals=_parse_loss_signals(counters),
        silent_repairs=silent_changes.repair_count,
        silent_countdown=silent_changes.countdown,
        counters_since=parse_time(counters.get("since")),
    )


def _parse_last_sweep(fields: Mapping[str, str]) -> LastSweep | None:
    if "at" not in fields:
        return None
    numbers = [int(fields.get(name, 0)) for name in ("objects", "marked")]
    return LastSweep(float(fields["at"]), fields.get("cause", ""), *numbers)


def _parse_loss_signals(counter_values: Mapping[str, str]) -> dict[str, int]:
    names = sorted(name for name in counter_values if name.startswith("loss_signal:"))
    return {name.removeprefix("loss_signal:"): int(counter_values[name]) for name in names}


def _parse_issue(entry: bytes, key: str | None = None) -> PipelineIssue:
    fields = json.loads(entry)
    if key is None:
        key = fields.get("key")
    return PipelineIssue(key, fields["reason"], int(fields["since"]))


class OperatorStatus:
    """Counters, and conditions that `/health/ready` reports.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def increment(self, counter: str, amount: int = 1) -> None:
        """Add `amount` to a counter for the operator."""
        if amount:
            self._redis.hincrby(COUNTERS, counter, amount)

    def start_counting(self, now: float) -> None:
        """Record when counting began, unless that is recorded."""
        self._redis.hsetnx(COUNTERS, "since", now)

    def set_source_failure(self, reason: str) -> None:
        """Record why the source bucket could not be read.

        The record expires after 60 s, or ends with `clear_source_failure`.
        """
        self._redis.set(SOURCE_FAILURE, reason, ex=STATUS_TTL_S)

    def clear_source_failure(self) -> None:
        """Clear the recorded failure: the source bucket could be read again."""
        self._redis.delete(SOURCE_FAILURE)
