"""The event inbox: the list in Redis to which MinIO sends its events."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import Redis

from shared.formats.events import MAX_ENTRY_BYTES, TruncatedEntry
from shared.redis_keys import (
    EVENTS_AVAILABLE,
    FAST_EVENTS,
    PROBE,
    PROBE_OF_VERSION_1,
    SAFE_EVENTS_OF_0_3,
)
from shared.scripts import CHUNK_SIZE, Scripts
from worker.state.user_states import run_mark

MAX_EXCERPT_BYTES = 200
"""Bytes of an event that its dead letter keeps."""
MAX_PEEK_BYTES = 16 << 20
"""A batch of events ends when this many bytes were read. The rest belongs to the next batch."""


class DecodedEntry(NamedTuple):
    """One decoded entry of the event list: the users to mark, or why it could not be decoded."""

    raw: bytes
    user_ids: Sequence[str]
    decode_error: str | None = None


class EventInbox:
    """The events that no listener has processed, and whether events arrive at all.

    `client` must not decode replies, because the event list may hold any bytes. Every method raises
    `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", scripts: Scripts) -> None:
        self._redis: Any = client
        self._mark = scripts["mark"]
        self._peek = scripts["peek"]
        self._move = scripts["move_events"]

    def wait_for_event(self, timeout_s: float) -> bytes | None:
        """Return the first event, waiting up to `timeout_s`; None if no event arrives.

        Of an entry above `MAX_ENTRY_BYTES`, the beginning is returned as `TruncatedEntry`.
        """
        # BLMOVE onto the same end leaves the entry in the list: a killed listener loses no event.
        raw: bytes | None = self._redis.blmove(FAST_EVENTS, FAST_EVENTS, timeout_s, "LEFT", "LEFT")
        return (
            TruncatedEntry(raw[:MAX_EXCERPT_BYTES]) if raw and len(raw) > MAX_ENTRY_BYTES else raw
        )

    def is_empty(self) -> bool:
        """Return whether no event waits to be processed."""
        return not self._redis.exists(FAST_EVENTS)

    def measure_lengths(self, message_queue: str) -> tuple[int, int]:
        """Return the lengths of the event list and of a Celery queue."""
        with self._redis.pipeline(transaction=False) as pipeline:
            events, messages = pipeline.llen(FAST_EVENTS).llen(message_queue).execute()
        return events, messages

    def peek(self, max_entries: int) -> list[bytes]:
        """Return the first entries of the list (PEEK); removes nothing.

        At most `max_entries` entries, and fewer if they are large.
        """
        arguments = [max_entries, MAX_ENTRY_BYTES, MAX_EXCERPT_BYTES, MAX_PEEK_BYTES]
        return _wrap_truncated(self._peek([FAST_EVENTS], arguments))

    def mark_and_pop(self, entries: Sequence[DecodedEntry], now: float) -> list[str]:
        """Mark the users of these entries and pop the entries, atomically (MARK).

        Returns the users to enqueue. Users to be read in isolation are left to the watchdog.
        """
        arguments: list[Any] = []
        for entry in entries:
            dead_letter = "" if entry.decode_error is None else _encode_dead_letter(entry, now)
            is_truncated = isinstance(entry.raw, TruncatedEntry)
            # A truncated entry cannot be compared with the head. MARK pops any overlong head then.
            arguments += ["" if is_truncated else entry.raw, dead_letter]
            arguments += [-1] if is_truncated else [len(entry.user_ids), *entry.user_ids]
        return run_mark(self._mark, FAST_EVENTS, "event", arguments, now)

    def move_copies_of_0_3(self) -> int:
        """Move the entries of the second list of release 0.3 to the list; return their number.

        Their users are marked once more. Each call moves at most `CHUNK_SIZE` entries.
        """
        keys = [SAFE_EVENTS_OF_0_3, FAST_EVENTS]
        return int(self._move(keys, [CHUNK_SIZE]))

    def set_events_available(self, *, available: bool) -> None:
        """Record whether MinIO's events reach this Redis. If not, only sweeps detect changes."""
        if available:
            self._redis.delete(EVENTS_AVAILABLE)
        else:
            self._redis.set(EVENTS_AVAILABLE, "no")

    def events_available(self) -> bool:
        """Return whether MinIO's events reach this Redis, as `rowdrop init` recorded it."""
        return bool(self._redis.get(EVENTS_AVAILABLE) != b"no")

    def has_probe_arrived(self, key: str) -> bool:
        """Return whether the event of this probe key arrived.

        A listener has processed it, or it is among the last 50 entries of the list.
        """
        if key.encode() in self._redis.mget(PROBE, PROBE_OF_VERSION_1):
            return True
        return any(key.encode() in raw for raw in self._redis.lrange(FAST_EVENTS, -50, -1))

    def record_probe(self, key: str) -> None:
        """Record for 60 seconds that the event of this probe key arrived."""
        self._redis.set(PROBE, key, ex=60)


def _wrap_truncated(entries: Sequence[bytes | list[bytes]]) -> list[bytes]:
    return [TruncatedEntry(entry[0]) if isinstance(entry, list) else entry for entry in entries]


def _encode_dead_letter(entry: DecodedEntry, now: float) -> str:
    beginning = entry.raw[:MAX_EXCERPT_BYTES].decode(errors="replace")
    return json.dumps(
        {"reason": entry.decode_error, "since": int(now), "key": None, "raw": beginning}
    )
