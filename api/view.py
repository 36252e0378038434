"""All that one API process knows, as one immutable value that its follower replaces."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from api.figures import Figures
from api.snapshot import Table
from shared.records import Reject


@dataclass(frozen=True, slots=True)
class View:
    """Times are in Unix seconds; None where it did not happen yet.

    `looked_at` is the last whole look at MinIO, `heard_at` the last answer of Redis, `broken_since` when this process
    first heard that something may be lost, `stuck_since` since when the same event waits first in its list;
    `consistent_as_of` is explained in `api.consistency`.  The errors are those of the last try, None if it went well.
    """

    table: Table | None = None
    rejects: Mapping[str, Reject] = field(default_factory=dict)
    figures: Figures | None = None
    looked_at: float | None = None
    heard_at: float | None = None
    store_error: str | None = None
    redis_error: str | None = None
    broken_since: float | None = None
    stuck_since: float | None = None
    consistent_as_of: float | None = None


class News(TypedDict, total=False):
    """Fields of a view that are to be replaced."""

    table: Table
    rejects: Mapping[str, Reject]
    figures: Figures
    looked_at: float
    heard_at: float
    store_error: str | None
    redis_error: str | None
    broken_since: float | None
    stuck_since: float | None
    consistent_as_of: float | None


CurrentView = Callable[[], View]
"""Gives the newest view; a request asks once and answers from that."""


def held(view: View) -> list[Reject]:
    """The rejects whose users have a row all the same: the one published before."""
    table = view.table
    return [] if table is None else [reject for reject in view.rejects.values() if table.has_row(reject.user_id)]
