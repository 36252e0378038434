"""The state of one API process, as one immutable value that its follower replaces."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from api.snapshot.table import SnapshotTable
from shared.formats.records import Reject
from shared.progress.pipeline_status import PipelineStatus


@dataclass(frozen=True, slots=True)
class View:
    """The snapshot, and what this process last read about the pipeline.

    Times are in Unix seconds; None if it has not happened yet.  `store_polled_at`: the last
    complete check of MinIO.  `redis_answered_at`: the last response of Redis.  `suspect_since`:
    when this process first read that events or writes may be lost.  `events_stalled_since`: since
    when the same event has been at the head of its list.  `consistent_as_of` is explained in
    `api.snapshot.consistency`.  The errors are those of the last attempt, None if it succeeded.
    """

    table: SnapshotTable | None = None
    rejects: Mapping[str, Reject] = field(default_factory=dict)
    pipeline_status: PipelineStatus | None = None
    store_polled_at: float | None = None
    redis_answered_at: float | None = None
    store_error: str | None = None
    redis_error: str | None = None
    suspect_since: float | None = None
    events_stalled_since: float | None = None
    consistent_as_of: float | None = None


class ViewUpdate(TypedDict, total=False):
    """The fields of a `View` that an update replaces."""

    table: SnapshotTable
    rejects: Mapping[str, Reject]
    pipeline_status: PipelineStatus
    store_polled_at: float
    redis_answered_at: float
    store_error: str | None
    redis_error: str | None
    suspect_since: float | None
    events_stalled_since: float | None
    consistent_as_of: float | None


ViewProvider = Callable[[], View]
"""Returns the newest view; a request calls it once, so that its response is consistent."""


def list_held_rejects(view: View) -> list[Reject]:
    """Return the rejects of users that still have a row: the held row, published before."""
    table = view.table
    if table is None:
        return []
    return [reject for reject in view.rejects.values() if table.has_row(reject.user_id)]
