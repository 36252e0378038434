"""The state of one API process, as one immutable value that its follower replaces."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from api.snapshot.table import SnapshotTable
from shared.formats.records import Reject
from shared.formats.source_keys import make_csv_key, parse_member_bundle
from shared.progress.pipeline_status import PipelineStatus

_MIN_BULK_REJECTS = 1000
"""From this number of rejects on, comparing columns is faster than looking up each user."""


class RejectList:
    """The rejects of one version of rejects.csv, compared with one version of the table.

    Each result is computed once. So a page or a count costs the same for any number of rejects.
    """

    def __init__(self, rejects: Mapping[str, Reject], table: SnapshotTable | None) -> None:
        self._rejects = rejects
        self._table = table

    def compares(self, rejects: Mapping[str, Reject], table: SnapshotTable | None) -> bool:
        """Return whether this list compares these versions."""
        return self._rejects is rejects and self._table is table

    @cached_property
    def entries(self) -> tuple[Reject, ...]:
        """All rejects, in the order of rejects.csv."""
        return tuple(self._rejects.values())

    @cached_property
    def held_user_ids(self) -> frozenset[str]:
        """The rejects that leave the version before in use, by user ID or bundle ID.

        The users still have a row, the held row.
        """
        rejects = self._rejects.values()
        bundle_ids = {each.user_id for each in rejects if each.keeps_bundle_version}
        return self._find_users_with_row() | bundle_ids

    def _find_users_with_row(self) -> frozenset[str]:
        table = self._table
        if table is None:
            return frozenset()
        if len(self._rejects) < _MIN_BULK_REJECTS:
            return frozenset(filter(table.has_row, self._rejects))
        user_ids = pa.array(list(self._rejects), pa.large_string())
        has_row = pc.is_in(user_ids, value_set=table.columns["user_id"])
        return frozenset(user_ids.filter(has_row).to_pylist())

    @cached_property
    def member_counts(self) -> Mapping[str, int]:
        """The number of rejected members by bundle."""
        rejects = self._rejects.values()
        keys = (each.key for each in rejects if each.key != make_csv_key(each.user_id))
        return Counter(filter(None, map(parse_member_bundle, keys)))


class ServedVersion(NamedTuple):
    """When a version of output.csv was found, and since when it is served; in Unix seconds.

    `polled_at` is the time before the store was asked: what was published earlier is in it. A
    version that comes back, such as after a restored file, has the same `etag` again.
    """

    etag: str
    polled_at: float
    since: float


@dataclass(frozen=True, slots=True)
class View:
    """The snapshot, and what this process last read about the pipeline.

    Times are in Unix seconds; None if it has not happened yet.  `store_polled_at`: when the
    last complete check of MinIO began, so the view has what was published before.
    `redis_answered_at`: the last response of Redis.  `suspect_since`: when this process first read
    that events or writes may be lost.  `events_stalled_since`: since when the same event has been
    at the head of its list.  `consistent_as_of` is explained in `api.snapshot.consistency`.  The
    errors are those of the last attempt, None if it succeeded.
    `served_versions` are the newest versions that this process has served, oldest first.
    `reject_list` follows from `rejects` and `table`.
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
    served_versions: Sequence[ServedVersion] = ()
    reject_list: RejectList = field(default_factory=lambda: RejectList({}, None))

    def __post_init__(self) -> None:
        """Compare the rejects with the table, unless the previous view has compared them."""
        if not self.reject_list.compares(self.rejects, self.table):
            object.__setattr__(self, "reject_list", RejectList(self.rejects, self.table))

    def find_row(self, user_id: str) -> dict[str, Any] | None:
        """Return the row of a user, or None without one."""
        row_number = self.table.find_row(user_id) if self.table is not None else None
        if self.table is None or row_number is None:
            return None
        row: dict[str, Any] = json.loads(self.table.get_row_json(row_number))
        return row


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
    served_versions: Sequence[ServedVersion]


ViewProvider = Callable[[], View]
"""Returns the newest view; a request calls it once, so that its response is consistent."""
