"""What keeps Rowdrop right, to be taken away: without it the faults must be seen to do harm.

It is taken away when Rowdrop runs, by a file `removed` in `$FAULTS_FOLDER`: without all of it Rowdrop would not start.
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
"""The file."""

Call = Callable[..., Any]
REDIS: Any = Redis


def _replace(owner: Any, name: str, replacement: Callable[[Call], Call]) -> None:  # noqa: ANN401
    """Have `replacement(original)` called in place of the original from the time on when the file is there."""
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

    # From the start on: a client has its time-outs for life.
    REDIS.from_url = patiently(REDIS.from_url)


def _reconnecting() -> None:
    def without(original: Call) -> Call:
        def create_celery(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            celery = original(*args, **options)
            celery.conf.update(broker_connection_retry=False)
            return celery

        return create_celery

    # From the start on: a worker reads this once.
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
                raise ValueError("an entry that cannot be decoded") from error

        return decode

    _replace(worker.events, "decode", fatal)


def _rewriting() -> None:
    def nothing_is_given_up(_: Call) -> Call:
        return lambda *_: frozenset()

    _replace(ReadableFiles, "look", nothing_is_given_up)


REMEDIES: Mapping[str, tuple[str, Callable[[], None]]] = {
    "watch": ("the watch, and every sweep", _watch),
    "sweeps": ("every sweep but the hourly one", _sweeps),
    "care of events": (
        "the copies of events on MinIO's disk, what else makes MinIO send them, and every sweep but the hourly one",
        _sweeps,
    ),
    "absence": ("that absent means NoSuchKey alone", _absence),
    "time-outs": ("that nobody waits for Redis for long", _time_outs),
    "reconnecting": ("that workers connect to Redis anew", _reconnecting),
    "read marks": ("that who was read since its last mark is not read again", _read_marks),
    "writer": ("that there is one writer, and that it writes conditionally", _writer),
    "rewriting": ("that published objects which cannot be read are written anew", _rewriting),
    "dead letters": ("that events which cannot be decoded are set aside", _dead_letters),
}
"""What is taken away, in words, and how."""


def prepare_to_remove(name: str) -> None:
    """Have this remedy taken away as soon as the file is there."""
    if name:
        REMEDIES[name][1]()
