"""Reads and writes output.csv and rejects.csv for the publisher.

Each file is written by compare-and-set of its ETag. The publisher holds the writer lease, without
which that is not enough: see `worker.publishing.publisher`.
"""

import logging
from collections.abc import Callable, Mapping

from shared.formats import rejects_csv
from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_HEADER, OutputCsv
from shared.formats.records import Buckets, ReadResult, Reject
from shared.object_store import ObjectNotFound, PreconditionFailed
from worker.publishing.manifest_writer import ManifestWriter
from worker.publishing.merge import PublishedTable, TableChanges, apply_reject_changes, merge
from worker.publishing.recovering_store import RecoveringStore
from worker.state.loss_signals import LossSignals

logger = logging.getLogger(__name__)


class OutputWriter:
    """The two published files of one output bucket, as a `PublishedTable`.

    Every method but `merge_results` sends requests and may raise `StoreUnavailable`.
    """

    def __init__(
        self,
        objects: RecoveringStore,
        loss_signals: LossSignals,
        manifest: ManifestWriter,
        buckets: Buckets,
    ) -> None:
        self._objects = objects
        self._loss_signals = loss_signals
        self._manifest = manifest
        self._buckets = buckets

    def load_table(self, recorded_etags: tuple[str | None, str | None]) -> PublishedTable:
        """Read the published files. Files that no publisher recorded are a loss signal."""
        table = self._read_table()
        if table.etags != recorded_etags:
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
            # Only the facts still have the held rows, as their CSVs are rejects now.
            output = OutputCsv(OUTPUT_HEADER).with_changes(self._manifest.make_rows(self._buckets))
            return PublishedTable(output, None, rejects, rejects_etag)

    def merge_results(
        self, table: PublishedTable, results: Mapping[str, ReadResult]
    ) -> TableChanges:
        """Return the changes that these results make to the table.

        Raises `StoreUnavailable` if the manifest is needed and cannot be read.
        """
        return merge(table, results, self._manifest.find_fact, self._buckets)

    def write_table(
        self, table: PublishedTable, changes: TableChanges, renew_lease: Callable[[], None]
    ) -> PublishedTable:
        """Write the changed files by compare-and-set and return the table as written.

        Raises `PreconditionFailed` if a file is not the one in `table`. `renew_lease` renews the
        writer lease or raises.
        """
        output = table.output.with_changes(changes.rows)
        rejects = apply_reject_changes(table.rejects, changes.rejects)
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
        elif self._objects.get_etag(REJECTS_KEY) != rejects_etag:
            raise PreconditionFailed(REJECTS_KEY)
        return PublishedTable(output, output_etag, rejects, rejects_etag)

    def verify_table(self, table: PublishedTable) -> None:
        """Verify that both files still have the known ETags.

        Raises `PreconditionFailed`. Called when the publisher is woken without a pending result. A
        sweep does that, for example, if a file without any user's line was deleted: no user is
        dirty.
        """
        etags = (self._objects.get_etag(OUTPUT_KEY), self._objects.get_etag(REJECTS_KEY))
        if etags != table.etags:
            raise PreconditionFailed(f"{OUTPUT_KEY} or {REJECTS_KEY}")

    def _write_or_verify(self, key: str, body: bytes, etag: str | None, *, changed: bool) -> str:
        """Write `body`, or compare the ETag if nothing changed, and return the ETag.

        Raises `PreconditionFailed`.
        """
        if changed or etag is None:
            return self._objects.put_if_unchanged(key, body, etag)
        if self._objects.get_etag(key) != etag:
            raise PreconditionFailed(key)
        return etag


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
