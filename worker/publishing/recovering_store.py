"""The published objects for their writer, which may rewrite objects that cannot be read.

Several checks must agree, because an overwritten object cannot be recovered. The object is not
deleted before it is overwritten: if the store accepts no new object, it keeps the old one, which
may become readable again.
"""

import logging
from collections.abc import Set

from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.object_store import (
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoredObject,
)
from worker.state.loss_signals import LossSignals

logger = logging.getLogger(__name__)

RECOVERED_KEYS = (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY)
MAX_FAILED_CHECKS = 4
"""Failed checks in a row (30 s) after which an object is given up and overwritten."""


class RecoveringStore:
    """The published objects, for their writer.

    Not thread-safe. Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` if
    Redis is unavailable.
    """

    def __init__(self, store: ObjectStore, loss_signals: LossSignals) -> None:
        self._store = store
        self._loss_signals = loss_signals
        self._failed_checks = dict[str, int]()
        self._lost_keys = set[str]()

    def find_lost(self) -> Set[str]:
        """Try to read each object and return the keys that are given up and must be rewritten."""
        for key in RECOVERED_KEYS:
            try:
                self._store.check_readable(key)
            except ObjectUnreadable as error:
                self._count_failure(key, error)
            else:
                self._failed_checks.pop(key, None)
                self._lost_keys.discard(key)
        return frozenset(self._lost_keys)

    def _count_failure(self, key: str, error: ObjectUnreadable) -> None:
        failures = self._failed_checks.get(key, 0) + 1
        self._failed_checks[key] = failures
        logger.warning(
            "%s cannot be read, check %d of %d: %s", key, failures, MAX_FAILED_CHECKS, error.reason
        )
        if failures == MAX_FAILED_CHECKS:
            self._lost_keys.add(key)
            self._loss_signals.add("files_changed")

    def get(self, key: str) -> StoredObject:
        """Read one object.

        Raises `ObjectNotFound`, also for an object that is given up.
        """
        try:
            return self._store.get(key)
        except ObjectUnreadable:
            if key not in self._lost_keys:
                raise
            raise ObjectNotFound(key) from None

    def get_etag(self, key: str) -> str | None:
        """Return the ETag of an object, or None if it does not exist."""
        return self._store.get_etag(key)

    def put(self, key: str, body: bytes) -> str:
        """Write an object unconditionally and return its ETag."""
        return self._store.put(key, body)

    def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
        """Write an object by compare-and-set, like `ObjectStore.put_if_unchanged`.

        An object that is given up is overwritten unconditionally.
        """
        if expected is None and key in self._lost_keys:
            # To evaluate a precondition, the server would have to read the unreadable object.
            logger.warning("%s cannot be read and is overwritten", key)
            return self._store.put(key, body)
        return self._store.put_if_unchanged(key, body, expected)
