"""Protections that a run removes, to show that the faults do harm without them.

A protection is removed from a running Rowdrop, by a file `removed` in `$FAULTS_FOLDER`: without
some of them Rowdrop would not start.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis import Redis

import shared.task_queue
import worker.events
from shared.object_store import ObjectNotFound, S3ObjectStore
from worker.backlog import Backlog, Note
from worker.evidence import Watch
from worker.readable_files import ReadableFiles
from worker.sweep_record import SweepRecord

REMOVED = "removed"
"""The name of that file."""

Call = Callable[..., Any]
REDIS: Any = Redis


def _replace(owner: Any, name: str, replacement: Callable[[Call], Call]) -> None:  # noqa: ANN401
    """Call `replacement(original)` in place of the original as soon as the file exists."""
    original, file = getattr(owner, name), Path(os.environ["FAULTS_FOLDER"]) / REMOVED
    other = replacement(original)

    @functools.wraps(original)
    def called(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        return (other if file.exists() else original)(*args, **options)

    setattr(owner, name, called)


def _nothing(_: Call) -> Call:
    return lambda *_, **__: None


def _watch() -> None:
    _replace(Watch, "tick", _nothing)
    _sweeps()


def _sweeps() -> None:
    _replace(SweepRecord, "request", _nothing)


def _absence() -> None:
    def not_found(_: Call) -> Call:
        return lambda _store, key, _error: ObjectNotFound(key)

    _replace(S3ObjectStore, "_failure", not_found)


def _time_outs() -> None:
    def patiently(original: Call) -> Call:
        def from_url(url: str, **options: Any) -> Any:  # noqa: ANN401
            return original(url, **{name: value for name, value in options.items() if "timeout" not in name})

        return from_url

    # Removed from the start: a client keeps the timeouts with which it was created.
    REDIS.from_url = patiently(REDIS.from_url)


def _reconnecting() -> None:
    def without(original: Call) -> Call:
        def create_celery(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            celery = original(*args, **options)
            celery.conf.update(broker_connection_retry=False)
            return celery

        return create_celery

    # Removed from the start: a worker reads this setting once.
    shared.task_queue.create_celery = without(shared.task_queue.create_celery)


def _read_marks() -> None:
    def all_who_are_dirty(_: Call) -> Call:
        def note(backlog: Backlog, users: Sequence[str], reading: str = "") -> dict[str, Note]:
            tokens = backlog.redis.hmget("dirty", users) if users else []
            return {user: Note(*value.split(b"|", 1)) for user, value in zip(users, tokens, strict=True) if value}

        return note

    _replace(Backlog, "note", all_who_are_dirty)


def _writer() -> None:
    def unconditional(_: Call) -> Call:
        return lambda store, key, body, _expected: store.put(key, body)

    def as_if_it_were_the_writer(original: Call) -> Call:
        def clean(backlog: Backlog, token: str, *args: Any) -> Any:  # noqa: ANN401
            backlog.redis.set("writer", token)
            return original(backlog, token, *args)

        return clean

    def at_any_time(original: Call) -> Call:
        def begin(backlog: Backlog, *args: Any) -> Any:  # noqa: ANN401
            backlog.redis.delete("writer")
            return original(backlog, *args)

        return begin

    def whoever_writes(original: Call) -> Call:
        def batch(backlog: Backlog, token: str, *args: Any) -> Any:  # noqa: ANN401
            backlog.redis.set("writer", token)
            return original(backlog, token, *args)

        return batch

    _replace(S3ObjectStore, "replace", unconditional)
    _replace(Backlog, "begin", at_any_time)
    _replace(Backlog, "batch", whoever_writes)
    _replace(Backlog, "clean", as_if_it_were_the_writer)
    _replace(Backlog, "renew", _nothing)


def _dead_letters() -> None:
    def fatal(original: Call) -> Call:
        def decode(*args: Any) -> Any:  # noqa: ANN401
            try:
                return original(*args)
            except worker.events.InvalidEvent as error:
                raise ValueError("event cannot be decoded (dead letters are removed)") from error

        return decode

    _replace(worker.events, "decode", fatal)


def _rewriting() -> None:
    def nothing_is_given_up(_: Call) -> Call:
        return lambda *_: frozenset()

    _replace(ReadableFiles, "look", nothing_is_given_up)


REMEDIES: Mapping[str, tuple[str, Callable[[], None]]] = {
    "watch": ("the watchdog, and every sweep", _watch),
    "sweeps": ("every sweep but the hourly one", _sweeps),
    "care of events": (
        "the copies of events on MinIO's disk, the settings for event delivery, and every sweep but the hourly one",
        _sweeps,
    ),
    "absence": ("the rule that only NoSuchKey means absent", _absence),
    "time-outs": ("the timeouts of Redis clients", _time_outs),
    "reconnecting": ("the retries of workers to connect to Redis", _reconnecting),
    "read marks": ("the check that skips users read since their last mark", _read_marks),
    "writer": ("the writer lease, and conditional writes", _writer),
    "rewriting": ("the rewriting of published objects that cannot be read", _rewriting),
    "dead letters": ("dead letters for events that cannot be decoded", _dead_letters),
}
"""Protections: name -> description, and the function that removes it."""


def prepare_to_remove(name: str) -> None:
    """Remove this protection as soon as the file exists. An empty name removes none."""
    if name:
        REMEDIES[name][1]()
