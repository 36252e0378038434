"""Keeps the facts of published CSVs and writes them to the manifest from time to time."""

import logging
from collections.abc import Callable, Mapping

from shared.formats.manifest import Fact, InvalidManifest, Manifest
from shared.formats.object_names import MANIFEST_KEY
from shared.formats.records import Buckets, Row
from shared.object_store import ObjectNotFound
from worker.publishing.recovering_store import RecoveringStore

logger = logging.getLogger(__name__)

MANIFEST_EVERY_S = 10.0
"""Minimum seconds between two writes of the manifest while there are results to publish."""


class ManifestWriter:
    """The facts in the manifest, and those that were published since it was written.

    The manifest is read when a fact is first needed. `clock` returns Unix seconds.
    """

    def __init__(self, objects: RecoveringStore, clock: Callable[[], float]) -> None:
        self._objects = objects
        self._clock = clock
        self._manifest: Manifest | None = None
        self._unwritten_facts: dict[str, Fact | None] = {}
        self._written_at = clock()

    def find_fact(self, user_id: str) -> Fact | None:
        """Return the fact of a user, whether or not it is written to the manifest yet.

        Raises `StoreUnavailable`.
        """
        if user_id in self._unwritten_facts:
            return self._unwritten_facts[user_id]
        return self._load_manifest().get(user_id)

    def add_facts(self, facts: Mapping[str, Fact | None]) -> None:
        """Add facts that were published; None removes the fact of a user."""
        self._unwritten_facts.update(facts)

    def make_rows(self, buckets: Buckets) -> dict[str, Row | None]:
        """Return the published rows, by user, as the facts describe them.

        Raises `StoreUnavailable`.
        """
        manifest = self._load_manifest().with_changes(self._unwritten_facts)
        return {row.user_id: row for row in manifest.to_output_rows(buckets)}

    def is_due(self, *, idle: bool) -> bool:
        """Return whether the manifest has unwritten facts and is to be written now.

        `idle`: there is nothing to publish. Otherwise it is written every `MANIFEST_EVERY_S`
        seconds.
        """
        return bool(self._unwritten_facts) and (
            idle or self._clock() - self._written_at > MANIFEST_EVERY_S
        )

    def write(self) -> None:
        """Write the manifest unconditionally.

        Raises `StoreUnavailable`. An older, newer or missing manifest does no harm: it is only a
        cache.
        """
        manifest = self._load_manifest().with_changes(self._unwritten_facts)
        self._objects.put(MANIFEST_KEY, manifest.encode())
        self._manifest = manifest
        self._unwritten_facts = {}
        self._written_at = self._clock()

    def _load_manifest(self) -> Manifest:
        if self._manifest is None:
            try:
                self._manifest = Manifest.decode(self._objects.get(MANIFEST_KEY).body)
            except (ObjectNotFound, InvalidManifest) as error:
                logger.info("no usable manifest (%s); the sweeps read every file once", error)
                self._manifest = Manifest.empty()
        return self._manifest
