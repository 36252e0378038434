"""Merges the pending results into output.csv and rejects.csv.

There is one writer, it writes conditionally, and no user becomes clean before both files are
confirmed. An ETag is the MD5 of the bytes, so `If-Match` alone does not order the writes: it
accepts A, B, A. Therefore the writer lease is fenced by a token, which is checked at ACQUIRE WRITER, at
each chunk of the batch and at COMMIT PUBLISH. If a replaced writer may have overwritten something, a loss signal
requests a sweep. After any refusal or error the table *and* the batch are dropped and read again.
"""

import logging
from collections.abc import Callable, Mapping
from itertools import islice

from shared.formats import rejects_csv
from shared.formats.manifest import Fact, InvalidManifest, Manifest
from shared.formats.object_names import (
    CATALOG_KEY,
    IMAGES_FOLDER,
    MANIFEST_KEY,
    OUTPUT_KEY,
    REJECTS_KEY,
)
from shared.formats.output_csv import OUTPUT_HEADER, OutputCsv
from shared.formats.records import Buckets, ReadResult, Reject
from shared.object_store import ObjectNotFound, ObjectStore, PreconditionFailed
from shared.progress.unpacks import UnpackLease
from worker.publishing.merge import (
    PublishedTable,
    TableChanges,
    _apply_reject_changes,
    find_changed_users,
    merge,
)
from worker.publishing.recovering_store import RecoveringStore
from worker.state.parts import StateParts
from worker.state.publish_queue import LeaseLost, PendingResult, PublishInput
from worker.state.scripts import new_token
from worker.state.user_states import VersionTokens

logger = logging.getLogger(__name__)

MANIFEST_EVERY_S = 10.0
"""Minimum seconds between two writes of the manifest while there are results to publish."""
MAX_DELETED_COPIES = 500
"""Image copies deleted in one publish: a drop must not wait for thousands of deletions."""


class Publisher:
    """The writer of one output bucket.

    `clock` returns Unix seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        state: StateParts,
        unpack_lease: UnpackLease,
        source_bucket: str,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._queue = state.publish_queue
        self._users = state.users
        self._loss_signals = state.loss_signals
        self._unpack_lease = unpack_lease
        self._clock = clock
        self._objects = RecoveringStore(store, state.loss_signals)
        self._buckets = Buckets(source_bucket, store.bucket)
        self._copy_path_prefix = f"{store.bucket}/{IMAGES_FOLDER}/"
        self._table_has_copies = True
        self._superseded = dict[str, str]()
        self._table: PublishedTable | None = None
        self._manifest: Manifest | None = None
        self._unwritten_facts: dict[str, Fact | None] = {}
        self._written_at = clock()

    def publish(self) -> int:
        """Publish all pending results.

        Returns how many results are pending now, or -1 if another publisher holds the writer lease.
        1 also stands for a publish that was refused or lost its lease, and has to be retried.
        Raises `StoreUnavailable` or `redis.exceptions.RedisError`: then the users stay dirty, and
        the next call retries all of them.
        """
        writer_token = new_token()
        try:
            publish_input = self._queue.acquire_writer(writer_token)
            return (
                -1
                if publish_input is None
                else self._publish_as_writer(writer_token, publish_input)
            )
        except PreconditionFailed as error:
            logger.info("%s was changed by another process; the publisher reads it again", error)
            self._abort(writer_token, signal_loss=False)
        except LeaseLost:
            logger.warning(
                "publisher %s lost the writer lease; it retries and requests a sweep", writer_token
            )
            self._abort(writer_token, signal_loss=True)
        except BaseException:
            self._abort(writer_token, signal_loss=True)
            raise
        return 1

    def _publish_as_writer(self, writer_token: str, publish_input: PublishInput) -> int:
        table = self._table
        pending = publish_input.pending
        if table is None or (table.output_etag, table.rejects_etag) != (
            publish_input.output_etag,
            publish_input.rejects_etag,
        ):
            table = self.load_table((publish_input.output_etag, publish_input.rejects_etag))
            # The batch must be read after the ETags. Otherwise a writer that was suspended in
            # between and replaced would write its stale batch over newer rows despite If-Match.
            pending = self._queue.read_pending(writer_token)
        if not pending and table.output_etag and table.rejects_etag and not table.repaired:
            self.verify_table(table)
            self.delete_superseded(table, writer_token, pending)
            # No COMMIT PUBLISH: nothing was published, so nothing is recorded.
            self._queue.release_writer(writer_token, signal_loss=False)
            return 0
        results = {user: result.result for user, result in pending.items()}
        changes = merge(table, results, self.find_fact, self._buckets)
        changed_users = find_changed_users(table, changes) if publish_input.needs_changes else None
        self.collect_superseded(table, changes, results)
        self._table = table = self.write_table(
            table, changes, lambda: self._queue.renew_writer(writer_token)
        )
        # Before COMMIT PUBLISH, which releases the lease: no user may become clean during the deletion.
        self.delete_superseded(table, writer_token, pending)
        pending_count = self._queue.commit_publish(
            writer_token,
            table.output_etag or "",
            table.rejects_etag or "",
            len(table.output),
            pending,
            self._clock(),
            changed_users,
        )
        self._unwritten_facts.update(changes.facts)
        self._log_publish(pending, table)
        return pending_count

    def _log_publish(self, pending: Mapping[str, PendingResult], table: PublishedTable) -> None:
        first_user = next(iter(pending), "none")
        logger.info(
            "published users: %s and %d more, rows=%d rejects=%d",
            first_user,
            max(0, len(pending) - 1),
            len(table.output),
            len(table.rejects),
        )

    def _abort(self, writer_token: str, *, signal_loss: bool) -> None:
        self._table = None
        self._queue.release_writer(writer_token, signal_loss=signal_loss)

    # -- objects that cannot be read ---------------------------------------------------------------
    def recover_objects(self) -> None:
        """Rewrite the published objects that could not be read in several checks in a row.

        Raises `StoreUnavailable` or `redis.exceptions.RedisError`; a later call resumes.
        """
        lost = self._objects.find_lost()
        if MANIFEST_KEY in lost:
            self.write_manifest()
        if CATALOG_KEY in lost:
            self._objects.replace_catalog(self._unpack_lease)
        if {OUTPUT_KEY, REJECTS_KEY} & lost:
            self._table = None
            self.publish()

    # -- the table ---------------------------------------------------------------------------------
    def load_table(self, recorded_etags: tuple[str | None, str | None]) -> PublishedTable:
        """Read the published files. Files that no publisher recorded are a loss signal."""
        table = self._table = self._read_table()
        self._table_has_copies = self._copy_path_prefix.encode() in table.output.body
        if (table.output_etag, table.rejects_etag) != recorded_etags:
            # Edited or deleted by hand, or written by a publisher that died before COMMIT PUBLISH.
            self._loss_signals.add("files_changed")
        return table

    def _read_table(self) -> PublishedTable:
        try:
            stored = self._objects.get(REJECTS_KEY)
            rejects: Mapping[str, Reject] = _decode_rejects_or_empty(stored.body)
            rejects_etag: str | None = stored.etag
        except ObjectNotFound:
            rejects = {}
            rejects_etag = None
        try:
            stored = self._objects.get(OUTPUT_KEY)
            # A file edited by hand may be unsorted, but rows are found by bisection.
            output = OutputCsv.repair(stored.body)
            return PublishedTable(
                output, stored.etag, rejects, rejects_etag, repaired=output.body is not stored.body
            )
        except ObjectNotFound:
            # Only the manifest still has the held rows, as their CSVs are rejects now. `_unwritten_facts`
            # has the facts that were published since the manifest was written.
            manifest = self._load_manifest().with_changes(self._unwritten_facts)
            rows = {row.user_id: row for row in manifest.to_output_rows(self._buckets)}
            return PublishedTable(
                OutputCsv(OUTPUT_HEADER).with_changes(rows), None, rejects, rejects_etag
            )

    def write_table(
        self, table: PublishedTable, changes: TableChanges, renew_lease: Callable[[], None]
    ) -> PublishedTable:
        """Write the changed files by compare-and-set and return the table as written."""
        output = table.output.with_changes(changes.rows)
        rejects = _apply_reject_changes(table.rejects, changes.rejects)
        output_etag = self._write_or_verify(
            OUTPUT_KEY,
            output.body,
            table.output_etag,
            changed=table.repaired or output.body != table.output.body,
        )
        rejects_etag = table.rejects_etag
        if rejects != table.rejects or rejects_etag is None:
            # Fencing: a writer that lost its lease during the first write must not do the second.
            renew_lease()
            rejects_etag = self._objects.put_if_unchanged(
                REJECTS_KEY, rejects_csv.encode_rejects(rejects.values()), rejects_etag
            )
        elif self._store.get_etag(REJECTS_KEY) != rejects_etag:
            raise PreconditionFailed(REJECTS_KEY)
        return PublishedTable(output, output_etag, rejects, rejects_etag)

    def verify_table(self, table: PublishedTable) -> None:
        """Verify that both files still have the known ETags.

        Raises `PreconditionFailed`. Called when the publisher is woken without a pending result. A sweep
        does that, for example, if a file without any user's line was deleted: no user is dirty.
        """
        if (self._store.get_etag(OUTPUT_KEY), self._store.get_etag(REJECTS_KEY)) != (
            table.output_etag,
            table.rejects_etag,
        ):
            raise PreconditionFailed(f"{OUTPUT_KEY} or {REJECTS_KEY}")

    def _write_or_verify(self, key: str, body: bytes, etag: str | None, *, changed: bool) -> str:
        """Write `body`, or compare the ETag if nothing changed, and return the ETag.

        Raises `PreconditionFailed`.
        """
        if changed or etag is None:
            return self._objects.put_if_unchanged(key, body, etag)
        if self._store.get_etag(key) != etag:
            raise PreconditionFailed(key)
        return etag

    # -- copies of images --------------------------------------------------------------------------
    @property
    def has_superseded_copies(self) -> bool:
        """Whether superseded image copies wait for deletion by the next `publish`.

        It deletes them even without a pending result.
        """
        return bool(self._superseded)

    def collect_superseded(
        self, table: PublishedTable, changes: TableChanges, results: Mapping[str, ReadResult]
    ) -> None:
        """Record the superseded image copies, for deletion.

        These are copies that a row names and will not name any more, and copies that no row has
        named or will name.
        """
        for user_id, outcome in results.items():
            # A reject without a held row gives no row, but its read has copied the image.
            unreferenced = (
                (outcome.image,) if outcome.image_source and changes.rows[user_id] is None else ()
            )
            self._superseded |= {
                f"{self._buckets.output}/{image}": user_id
                for image in (*outcome.superseded_copies, *unreferenced)
            }
        # Without IMAGES=copy and bundles no row names a copy: skip the lookup of previous rows.
        if self._table_has_copies:
            for user_id, row in changes.rows.items():
                old_row = table.output.get(user_id)
                path = old_row.img_path if old_row else ""
                if path.startswith(self._copy_path_prefix) and (
                    row is None or row.img_path != path
                ):
                    self._superseded[path] = user_id
        self._table_has_copies |= any(
            row and row.img_path.startswith(self._copy_path_prefix) for row in changes.rows.values()
        )

    def delete_superseded(
        self, table: PublishedTable, writer_token: str, pending: Mapping[str, PendingResult]
    ) -> None:
        """Delete up to `MAX_DELETED_COPIES` unreferenced image copies while holding the writer lease.

        So no user becomes clean during the deletion. A user that is dirty for another reason is
        marked to be read again: its image may be back, with a copy made before this deletion.
        """
        chunk = dict(islice(self._superseded.items(), MAX_DELETED_COPIES))
        if not chunk:
            return
        self._queue.renew_writer(writer_token)
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
            del self._superseded[path]

    # -- the manifest ------------------------------------------------------------------------------
    def _load_manifest(self) -> Manifest:
        if self._manifest is None:
            try:
                self._manifest = Manifest.decode(self._objects.get(MANIFEST_KEY).body)
            except (ObjectNotFound, InvalidManifest) as error:
                logger.info("no usable manifest (%s); the sweeps read every file once", error)
                self._manifest = Manifest.empty()
        return self._manifest

    def find_fact(self, user_id: str) -> Fact | None:
        """Return the cached fact of a user, whether or not it is written to the manifest yet."""
        return (
            self._unwritten_facts[user_id]
            if user_id in self._unwritten_facts
            else self._load_manifest().get(user_id)
        )

    def is_manifest_due(self, *, idle: bool) -> bool:
        """Return whether the manifest has unwritten facts and is to be written now.

        `idle`: there is nothing to publish. Otherwise it is written every `MANIFEST_EVERY_S`
        seconds.
        """
        return bool(self._unwritten_facts) and (
            idle or self._clock() - self._written_at > MANIFEST_EVERY_S
        )

    def write_manifest(self) -> None:
        """Write the manifest unconditionally.

        Raises `StoreUnavailable`. An older, newer or missing manifest does no harm: it is only a
        cache.
        """
        manifest = self._load_manifest().with_changes(self._unwritten_facts)
        self._store.put(MANIFEST_KEY, manifest.encode())
        self._manifest = manifest
        self._unwritten_facts = {}
        self._written_at = self._clock()


def _is_dirty_only_by(version_tokens: VersionTokens, pending: PendingResult | None) -> bool:
    """Return whether a user is dirty only because of the result that is being published."""
    return (
        pending is not None
        and version_tokens.change_version + b"|" + version_tokens.read_version
        == pending.version_tokens
    )


def _decode_rejects_or_empty(body: bytes) -> Mapping[str, Reject]:
    try:
        return rejects_csv.decode_rejects(body)
    except rejects_csv.InvalidRejectsCsv as error:
        logger.warning(
            "rejects.csv was edited by hand and is not valid (%s);"
            " the publisher starts without rejects, and a sweep restores them",
            error,
        )
        return {}
