"""Reads the published files for the sweep, the rebuild and the check."""

import contextlib
from typing import NamedTuple

from shared import rejects as rejects_csv
from shared.manifest import InvalidManifest, Manifest
from shared.object_store import ObjectNotFound, ObjectStore
from shared.output_csv import HEADER, OutputCsv
from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.records import QUARANTINED, Reject
from worker.unreadable import is_unreadable


class PublishedFiles(NamedTuple):
    """The published files; an object that is missing or not valid counts as empty.

    `output` has the valid rows of output.csv. `proper`: these are the stored bytes, unchanged.
    """

    output: bytes
    output_etag: str | None
    rejects: dict[str, Reject]
    rejects_etag: str | None
    manifest: Manifest
    proper: bool

    def quarantined(self) -> dict[str, str]:
        """Return the ETag of each quarantined CSV, by user."""
        rejects = self.rejects.items()
        return {user_id: reject.etag for user_id, reject in rejects if reject.reason == QUARANTINED}

    def unreadable(self) -> set[str]:
        """Return the users and bundle IDs that are rejects as the object store cannot read them."""
        rejects = self.rejects.items()
        return {user_id for user_id, reject in rejects if is_unreadable(reject.reason)}


def read_published(store: ObjectStore) -> PublishedFiles:
    """Read output.csv, rejects.csv and the manifest.

    Raises `StoreUnavailable`.
    """
    proper = True
    output, rejects, manifest = HEADER, dict[str, Reject](), Manifest.empty()
    output_etag = rejects_etag = None
    with contextlib.suppress(ObjectNotFound):
        stored = store.get(OUTPUT)
        output, output_etag = OutputCsv.repair(stored.body).body, stored.etag
        # Identity, not equality: `repair` returns the very same bytes if they need no repair.
        proper = output is stored.body
    with contextlib.suppress(ObjectNotFound, rejects_csv.InvalidRejectsCsv):
        stored = store.get(REJECTS)
        rejects_etag = stored.etag
        rejects = dict(rejects_csv.decode(stored.body))
    with contextlib.suppress(ObjectNotFound, InvalidManifest):
        manifest = Manifest.decode(store.get(MANIFEST).body)
    return PublishedFiles(output, output_etag, rejects, rejects_etag, manifest, proper)
