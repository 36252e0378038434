"""What keeps Rowdrop right, to be taken away: without it the faults must be seen to do harm."""

from collections.abc import Callable, Mapping
from typing import Any

import worker.events
from shared.object_store import ObjectNotFound, S3ObjectStore
from worker.backlog import Backlog
from worker.evidence import Watch
from worker.sweep_record import SweepRecord

# What is altered here is altered by name.
WATCH: Any = Watch
SWEEPS: Any = SweepRecord
STORE: Any = S3ObjectStore
BACKLOG: Any = Backlog
EVENTS: Any = worker.events


def _nothing(*_: object, **__: object) -> None:
    pass


def _watch() -> None:
    WATCH.tick = _nothing
    SWEEPS.request = _nothing


def _sweeps() -> None:
    SWEEPS.request = _nothing


def _absence() -> None:
    def not_found(_: S3ObjectStore, key: str, __: Exception) -> Exception:
        return ObjectNotFound(key)

    STORE._failure = not_found


def _writer() -> None:
    def replace(store: S3ObjectStore, key: str, body: bytes, _: str | None) -> str:
        return store.put(key, body)

    def clean(backlog: Backlog, token: str, *args: Any, **options: Any) -> int:  # noqa: ANN401
        backlog.redis.set("writer", token)
        return original(backlog, token, *args, **options)

    original = Backlog.clean
    STORE.replace = replace
    BACKLOG.clean = clean
    BACKLOG.renew = _nothing


def _dead_letters() -> None:
    original = worker.events.decode

    def decode(*args: Any) -> Any:  # noqa: ANN401
        try:
            return original(*args)
        except worker.events.InvalidEvent as error:
            raise ValueError("an entry that cannot be decoded") from error

    EVENTS.decode = decode


REMEDIES: Mapping[str, tuple[str, Callable[[], None]]] = {
    "watch": ("the watch, and every sweep", _watch),
    "sweeps": ("every sweep but the hourly one", _sweeps),
    "absence": ("absent means NoSuchKey alone", _absence),
    "writer": ("one writer, and conditional writes", _writer),
    "dead letters": ("events that cannot be decoded are set aside", _dead_letters),
}
"""What is taken away, in words, and how."""


def remove(names: str) -> None:
    """Take away these remedies, separated by commas."""
    for name in filter(None, names.split(",")):
        REMEDIES[name][1]()
