"""Reads the published files for the sweep, the rebuild and the check."""

import contextlib
from collections.abc import Set
from typing import NamedTuple

from shared.formats import rejects_csv
from shared.formats.manifest import InvalidManifest, Manifest
from shared.formats.object_names import MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_HEADER, OutputCsv
from shared.formats.records import QUARANTINE_REASON, Reject
from shared.object_store import ObjectNotFound, ObjectStore
from worker.source.unreadable import is_unreadable_reason


class PublishedFiles(NamedTuple):
    """The published files; an object that is missing or not valid counts as empty.

    `output` has the valid rows of output.csv. `is_canonical`: these are the stored bytes,
    unchanged.
    """

    output: bytes
    output_etag: str | None
    rejects: dict[str, Reject]
    rejects_etag: str | None
    manifest: Manifest
    is_canonical: bool

    def find_quarantined(self) -> dict[str, str]:
        """Return the ETag of each quarantined CSV, by user.

        The reason in rejects.csv is the durable record of a quarantine: Redis may lose its own
        record. The caller writes these ETags back to Redis; a file with another ETag is read.
        """
        rejects = self.rejects.items()
        return {
            user_id: reject.etag
            for user_id, reject in rejects
            if reject.reason == QUARANTINE_REASON
        }

    def find_unchanged_users(self, user_ids: Set[str], later: "PublishedFiles") -> set[str]:
        """Return those of the users with the same row and the same reject in `later`."""
        rows = OutputCsv(self.output)
        later_rows = OutputCsv(later.output)
        return {
            user_id
            for user_id in user_ids
            if rows.get(user_id) == later_rows.get(user_id)
            and self.rejects.get(user_id) == later.rejects.get(user_id)
        }

    def find_unreadable(self) -> set[str]:
        """Return the users and bundle IDs that the object store cannot read."""
        rejects = self.rejects.items()
        return {user_id for user_id, reject in rejects if is_unreadable_reason(reject.reason)}


def read_published_files(store: ObjectStore) -> PublishedFiles:
    """Read output.csv, rejects.csv and the manifest.

    Raises `StoreUnavailable`.
    """
    is_canonical = True
    output = OUTPUT_HEADER
    rejects = dict[str, Reject]()
    manifest = Manifest.empty()
    output_etag = rejects_etag = None
    with contextlib.suppress(ObjectNotFound):
        stored = store.get(OUTPUT_KEY)
        output = OutputCsv.repair(stored.body).body
        output_etag = stored.etag
        # Identity, not equality: `repair` returns the very same bytes if they need no repair.
        is_canonical = output is stored.body
    with contextlib.suppress(ObjectNotFound, rejects_csv.InvalidRejectsCsv):
        stored = store.get(REJECTS_KEY)
        rejects_etag = stored.etag
        rejects = dict(rejects_csv.decode_rejects(stored.body))
    with contextlib.suppress(ObjectNotFound, InvalidManifest):
        manifest = Manifest.decode(store.get(MANIFEST_KEY).body)
    return PublishedFiles(output, output_etag, rejects, rejects_etag, manifest, is_canonical)
