"""Rewrites published objects that exist but cannot be read, like deleted ones."""

import logging

from shared.formats.bundle_catalog import BundleCatalog
from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.progress.leases import Lease
from shared.scripts import new_token
from worker.publishing.publisher import Publisher
from worker.publishing.recovering_store import RecoveringStore
from worker.state.loss_signals import LossSignals

logger = logging.getLogger(__name__)

RECOVERY_CHECK_EVERY_S = 10.0
"""Seconds between two checks."""


class ObjectRecovery:
    """Rewrites the objects that `objects` gives up.

    `publisher` must write to the same `objects`.
    """

    def __init__(
        self,
        objects: RecoveringStore,
        publisher: Publisher,
        unpack_lease: Lease,
        loss_signals: LossSignals,
    ) -> None:
        self._objects = objects
        self._publisher = publisher
        self._unpack_lease = unpack_lease
        self._loss_signals = loss_signals

    def recover_objects(self) -> None:
        """Rewrite the published objects that could not be read in several checks in a row.

        Raises `StoreUnavailable` or `redis.exceptions.RedisError`; a later call resumes.
        """
        lost = self._objects.find_lost()
        if MANIFEST_KEY in lost:
            self._publisher.write_manifest()
        if CATALOG_KEY in lost:
            self._replace_catalog()
        if {OUTPUT_KEY, REJECTS_KEY} & lost:
            self._publisher.forget_table()
            self._publisher.publish()

    def _replace_catalog(self) -> None:
        """Overwrite `bundles.json` with an empty catalog, unless a bundle is being unpacked.

        The loss signal requests a sweep, which has all bundles unpacked again.
        """
        # The lease of the unpackers, which are the other writers of the catalog.
        with self._unpack_lease.hold() as is_held:
            if not is_held:
                return
            logger.warning(
                "%s cannot be read and is emptied; a sweep has all bundles unpacked again",
                CATALOG_KEY,
            )
            self._objects.put(CATALOG_KEY, BundleCatalog().encode(new_token()))
            self._loss_signals.add("files_changed")
