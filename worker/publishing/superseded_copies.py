"""Finds image copies that no row names any more and deletes them."""

from collections.abc import Callable, Mapping
from itertools import islice

from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.records import Buckets, ReadResult
from shared.object_store import ObjectStore
from worker.publishing.merge import PublishedTable, TableChanges
from worker.state.publish_queue import PendingResult
from worker.state.user_states import UserStates, VersionTokens

MAX_DELETED_COPIES = 500
"""Image copies deleted in one publish: a drop must not wait for thousands of deletions."""


class SupersededCopies:
    """The superseded image copies that wait for their deletion. `clock` returns Unix seconds."""

    def __init__(
        self, store: ObjectStore, users: UserStates, buckets: Buckets, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._users = users
        self._buckets = buckets
        self._clock = clock
        self._copy_path_prefix = f"{buckets.output}/{IMAGES_FOLDER}/"
        self._table_has_copies = True
        self._owners = dict[str, str]()  # the `img_path` of each copy -> its user

    @property
    def is_empty(self) -> bool:
        """Whether no copy waits for deletion."""
        return not self._owners

    def inspect_table(self, table: PublishedTable) -> None:
        """Find out whether a row names a copy. Call it for each table that is loaded."""
        self._table_has_copies = self._copy_path_prefix.encode() in table.output.body

    def collect(
        self, table: PublishedTable, changes: TableChanges, results: Mapping[str, ReadResult]
    ) -> None:
        """Record the superseded image copies, for deletion.

        These are copies that a row names and will not name any more, and copies that no row has
        named or will name.
        """
        for user_id, result in results.items():
            # A reject without a held row gives no row, but its read has copied the image.
            unreferenced = (
                (result.image,) if result.image_source and changes.rows[user_id] is None else ()
            )
            self._owners |= {
                f"{self._buckets.output}/{image}": user_id
                for image in (*result.superseded_copies, *unreferenced)
            }
        # Without IMAGES=copy and bundles no row names a copy: skip the lookup of previous rows.
        if self._table_has_copies:
            for user_id, row in changes.rows.items():
                old_row = table.output.get(user_id)
                path = old_row.img_path if old_row else ""
                if self._is_copy(path) and (row is None or row.img_path != path):
                    self._owners[path] = user_id
        self._table_has_copies |= any(
            row and self._is_copy(row.img_path) for row in changes.rows.values()
        )

    def _is_copy(self, path: str) -> bool:
        return path.startswith(self._copy_path_prefix)

    def delete(
        self,
        table: PublishedTable,
        pending: Mapping[str, PendingResult],
        renew_lease: Callable[[], None],
    ) -> None:
        """Delete up to `MAX_DELETED_COPIES` unreferenced image copies.

        The caller holds the writer lease, so no user becomes clean during the deletion.
        `renew_lease` renews it or raises. A user that is dirty for another reason than its
        `pending` result is marked to be read again: its image may be back, with a copy made before
        this deletion.
        """
        chunk = dict(islice(self._owners.items(), MAX_DELETED_COPIES))
        if not chunk:
            return
        renew_lease()
        rows = {path: table.output.get(user_id) for path, user_id in chunk.items()}
        unreferenced = [path for path, row in rows.items() if row is None or row.img_path != path]
        self._store.delete_many(
            [path.removeprefix(f"{self._buckets.output}/") for path in unreferenced]
        )
        version_tokens = self._users.dirty_tokens([chunk[path] for path in unreferenced])
        self._users.mark(
            [
                user
                for user, tokens in version_tokens.items()
                if not _is_dirty_only_by(tokens, pending.get(user))
            ],
            "event",
            self._clock(),
        )
        for path in chunk:
            del self._owners[path]


def _is_dirty_only_by(version_tokens: VersionTokens, pending: PendingResult | None) -> bool:
    """Return whether a user is dirty only because of the result that is being published."""
    return pending is not None and (
        (version_tokens.change_version, version_tokens.read_version)
        == (pending.change_version, pending.read_version)
    )
