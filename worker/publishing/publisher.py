"""Publishes the pending results in output.csv and rejects.csv.

There is one writer, it writes conditionally, and no user becomes clean before both files are
confirmed. An ETag is the MD5 of the bytes, so `If-Match` alone does not order the writes: it
accepts A, B, A. Therefore the writer lease is fenced by a token, which is checked at ACQUIRE
WRITER, at each chunk of the batch and at COMMIT PUBLISH. If a replaced writer may have overwritten
something, a loss signal requests a sweep. After any refusal or error the table *and* the batch are
dropped and read again.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial

from shared.object_store import PreconditionFailed
from shared.scripts import new_token
from worker.publishing.manifest_writer import ManifestWriter
from worker.publishing.merge import PublishedTable, find_changed_users
from worker.publishing.output_writer import OutputWriter
from worker.publishing.superseded_copies import SupersededCopies
from worker.state.publish_queue import LeaseLost, PendingResult, PublishInput, PublishQueue

logger = logging.getLogger(__name__)


class Publisher:
    """The writer of one output bucket. `clock` returns Unix seconds."""

    def __init__(
        self,
        queue: PublishQueue,
        writer: OutputWriter,
        copies: SupersededCopies,
        manifest: ManifestWriter,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._copies = copies
        self._manifest = manifest
        self._clock = clock
        self._table: PublishedTable | None = None

    def publish(self) -> int:
        """Publish a batch of the pending results.

        Returns how many results are pending now, or -1 if another publisher holds the writer lease.
        1 also stands for a publish that was refused or lost its lease, and has to be retried.
        Raises `StoreUnavailable` or `redis.exceptions.RedisError`: then the users stay dirty, and
        the next call retries all of them.
        """
        writer_token = new_token()
        try:
            publish_input = self._queue.acquire_writer(writer_token)
            if publish_input is None:
                return -1
            return self._publish_as_writer(writer_token, publish_input)
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
        renew_lease = partial(self._queue.renew_writer, writer_token)
        recorded_etags = (publish_input.output_etag, publish_input.rejects_etag)
        table = self._table
        pending = publish_input.pending
        has_silent_drift = publish_input.has_silent_drift
        if table is None or table.etags != recorded_etags:
            table = self._writer.load_table(recorded_etags)
            self._table = table
            self._copies.inspect_table(table)
            # The batch must be read after the ETags. Otherwise a writer that was suspended in
            # between and replaced would write its stale batch over newer rows despite If-Match.
            pending = self._queue.read_pending(writer_token)
            has_silent_drift = True  # a sweep may have recorded some since
        if not pending and table.output_etag and table.rejects_etag and not table.repaired:
            self._writer.verify_table(table)
            self._copies.delete(table, pending, renew_lease)
            # No COMMIT PUBLISH: nothing was published, so nothing is recorded.
            self._queue.release_writer(writer_token, signal_loss=False)
            return 0
        results = {user: result.result for user, result in pending.items()}
        changes = self._writer.merge_results(table, results)
        changed_users = find_changed_users(table, changes)
        self._copies.collect(table, changes, results)
        table = self._writer.write_table(table, changes, renew_lease)
        self._table = table
        # Before COMMIT PUBLISH, which releases the lease: no user may become clean during the
        # deletion.
        self._copies.delete(table, pending, renew_lease)
        if has_silent_drift:
            self._count_silent_repairs(pending, changed_users)
        pending_count = self._queue.commit_publish(
            writer_token,
            table.output_etag or "",
            table.rejects_etag or "",
            table.output.row_count,
            pending,
            self._clock(),
            changed_users,
        )
        self._manifest.add_facts(changes.facts)
        self._log_publish(pending, table)
        return pending_count

    def _count_silent_repairs(
        self, pending: Mapping[str, PendingResult], changed_users: Collection[str]
    ) -> None:
        repaired = self._queue.count_silent_repairs(list(pending), changed_users)
        if repaired:
            logger.warning(
                "silent drift: %s and %d more changed without an event; a sweep repaired them",
                repaired[0],
                len(repaired) - 1,
            )

    def _log_publish(self, pending: Mapping[str, PendingResult], table: PublishedTable) -> None:
        first_user = next(iter(pending), "none")
        logger.info(
            "published users: %s and %d more, rows=%d rejects=%d",
            first_user,
            max(0, len(pending) - 1),
            table.output.row_count,
            len(table.rejects),
        )

    def _abort(self, writer_token: str, *, signal_loss: bool) -> None:
        self._table = None
        self._queue.release_writer(writer_token, signal_loss=signal_loss)

    def forget_table(self) -> None:
        """Drop the cached table: the next `publish` reads the files again."""
        self._table = None

    @property
    def has_superseded_copies(self) -> bool:
        """Whether superseded image copies wait for deletion by the next `publish`.

        It deletes them even without a pending result.
        """
        return not self._copies.is_empty

    def is_manifest_due(self, *, idle: bool) -> bool:
        """Return whether to write the manifest now, see `ManifestWriter.is_due`."""
        return self._manifest.is_due(idle=idle)

    def write_manifest(self) -> None:
        """Write the manifest, see `ManifestWriter.write`."""
        self._manifest.write()
