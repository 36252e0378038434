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

import shared.formats.events
import shared.s3.errors
import shared.task_queue
from shared.object_store import ObjectNotFound
from shared.progress.sweep_record import SweepRecord
from shared.redis_keys import WRITER_LEASE
from shared.s3.objects import S3ObjectStore
from worker.publishing.recovering_store import RecoveringStore
from worker.state.publish_queue import PublishQueue
from worker.state.user_states import UserStates, VersionTokens
from worker.watchdog.watchdog import Watchdog

REMOVED_FILE = "removed"
"""The name of that file."""

AnyCallable = Callable[..., Any]
REDIS_CLASS: Any = Redis


def _replace_when_removed(
    owner: Any,  # noqa: ANN401
    name: str,
    replacement: Callable[[AnyCallable], AnyCallable],
) -> None:
    """Call `replacement(original)` in place of the original as soon as the file exists."""
    original = getattr(owner, name)
    file = Path(os.environ["FAULTS_FOLDER"]) / REMOVED_FILE
    other = replacement(original)

    @functools.wraps(original)
    def call_either(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        return (other if file.exists() else original)(*args, **options)

    setattr(owner, name, call_either)


def _do_nothing(_: AnyCallable) -> AnyCallable:
    return lambda *_, **__: None


def _remove_watchdog() -> None:
    _replace_when_removed(Watchdog, "tick", _do_nothing)
    _remove_sweeps()


def _remove_sweeps() -> None:
    _replace_when_removed(SweepRecord, "request", _do_nothing)


def _remove_absence_rule() -> None:
    def not_found(_: AnyCallable) -> AnyCallable:
        return lambda _bucket, key, _error: ObjectNotFound(key)

    _replace_when_removed(shared.s3.errors, "translate_error", not_found)


def _remove_timeouts() -> None:
    def without_timeouts(original: AnyCallable) -> AnyCallable:
        def from_url(url: str, **options: Any) -> Any:  # noqa: ANN401
            return original(
                url, **{name: value for name, value in options.items() if "timeout" not in name}
            )

        return from_url

    # Removed from the start: a client keeps the timeouts with which it was created.
    REDIS_CLASS.from_url = without_timeouts(REDIS_CLASS.from_url)


def _remove_reconnecting() -> None:
    def without(original: AnyCallable) -> AnyCallable:
        def create_celery(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            celery = original(*args, **options)
            celery.conf.update(broker_connection_retry=False)
            return celery

        return create_celery

    # Removed from the start: a worker reads this setting once.
    shared.task_queue.create_celery = without(shared.task_queue.create_celery)


def _remove_read_marks() -> None:
    def read_all_dirty(_: AnyCallable) -> AnyCallable:
        def begin_read(
            states: UserStates, users: Sequence[str], read_id: str = ""
        ) -> dict[str, VersionTokens]:
            return states.dirty_tokens(users)

        return begin_read

    _replace_when_removed(UserStates, "begin_read", read_all_dirty)


def _remove_writer_lease() -> None:
    def put_unconditionally(_: AnyCallable) -> AnyCallable:
        return lambda store, key, body, _expected: store.put(key, body)

    def commit_as_any_writer(original: AnyCallable) -> AnyCallable:
        def commit_publish(queue: PublishQueue, token: str, *args: Any) -> Any:  # noqa: ANN401
            queue._redis.set(WRITER_LEASE, token)
            return original(queue, token, *args)

        return commit_publish

    def acquire_at_any_time(original: AnyCallable) -> AnyCallable:
        def acquire_writer(queue: PublishQueue, *args: Any) -> Any:  # noqa: ANN401
            queue._redis.delete(WRITER_LEASE)
            return original(queue, *args)

        return acquire_writer

    def read_as_any_writer(original: AnyCallable) -> AnyCallable:
        def read_pending(queue: PublishQueue, token: str, *args: Any) -> Any:  # noqa: ANN401
            queue._redis.set(WRITER_LEASE, token)
            return original(queue, token, *args)

        return read_pending

    _replace_when_removed(S3ObjectStore, "put_if_unchanged", put_unconditionally)
    _replace_when_removed(PublishQueue, "acquire_writer", acquire_at_any_time)
    _replace_when_removed(PublishQueue, "read_pending", read_as_any_writer)
    _replace_when_removed(PublishQueue, "commit_publish", commit_as_any_writer)
    _replace_when_removed(PublishQueue, "renew_writer", _do_nothing)


def _remove_dead_letters() -> None:
    def raise_fatal_error(original: AnyCallable) -> AnyCallable:
        def decode(*args: Any) -> Any:  # noqa: ANN401
            try:
                return original(*args)
            except shared.formats.events.InvalidEvent as error:
                raise ValueError("event cannot be decoded (dead letters are removed)") from error

        return decode

    _replace_when_removed(shared.formats.events, "decode_entry", raise_fatal_error)


def _remove_rewriting() -> None:
    def find_nothing(_: AnyCallable) -> AnyCallable:
        return lambda *_: frozenset()

    _replace_when_removed(RecoveringStore, "find_lost", find_nothing)


PROTECTIONS: Mapping[str, tuple[str, Callable[[], None]]] = {
    "watchdog": ("the watchdog, and every sweep", _remove_watchdog),
    "sweeps": ("every sweep but the hourly one", _remove_sweeps),
    "event delivery": (
        "the settings for event delivery, and every sweep but the hourly one",
        _remove_sweeps,
    ),
    "absence": ("the rule that only NoSuchKey means absent", _remove_absence_rule),
    "time-outs": ("the timeouts of Redis clients", _remove_timeouts),
    "reconnecting": ("the retries of workers to connect to Redis", _remove_reconnecting),
    "read marks": ("the check that skips users read since their last mark", _remove_read_marks),
    "writer": ("the writer lease, and conditional writes", _remove_writer_lease),
    "rewriting": ("the rewriting of published objects that cannot be read", _remove_rewriting),
    "dead letters": ("dead letters for events that cannot be decoded", _remove_dead_letters),
}
"""Protections: name -> description, and the function that removes it."""


def prepare_to_remove(name: str) -> None:
    """Remove this protection as soon as the file exists. An empty name removes none."""
    if name:
        PROTECTIONS[name][1]()
