"""Rewrites published objects that exist but cannot be read, like deleted ones.

Several checks must agree, because an overwritten object cannot be recovered. The object is not
deleted before it is overwritten: if the store accepts no new object, it keeps the old one, which
may become readable again.
"""

import logging
from collections.abc import Set

from shared.object_store import (
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoredObject,
)
from shared.published import BUNDLES, MANIFEST, OUTPUT, REJECTS
from shared.unpacks import Unpacks
from worker.backlog import Backlog, new_token
from worker.shelf import Shelf

logger = logging.getLogger(__name__)

FILES = (OUTPUT, REJECTS, MANIFEST, BUNDLES)
EVERY_S = 10.0
"""Seconds between two checks."""
LOOKS_UNREADABLE = 4
"""Failed checks in a row (30 s) after which an object is given up and overwritten."""


class ReadableFiles:
    """The published objects, for their writer.

    Not thread-safe. Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` if
    Redis is unavailable.
    """

    def __init__(self, store: ObjectStore, backlog: Backlog) -> None:
        self._store = store
        self._backlog = backlog
        self._looks = dict[str, int]()
        self._given_up = set[str]()

    def look(self) -> Set[str]:
        """Try to read each object and return the keys that are given up and must be rewritten."""
        for key in FILES:
            try:
                self._store.check_readable(key)
            except ObjectUnreadable as error:
                self._note(key, error)
            else:
                self._looks.pop(key, None)
                self._given_up.discard(key)
        return frozenset(self._given_up)

    def _note(self, key: str, error: ObjectUnreadable) -> None:
        looks = self._looks.get(key, 0) + 1
        self._looks[key] = looks
        logger.warning("%s cannot be read, check %d of %d: %s", key, looks, LOOKS_UNREADABLE, error.why)
        if looks == LOOKS_UNREADABLE:
            self._given_up.add(key)
            self._backlog.add_evidence("files_changed")

    def get(self, key: str) -> StoredObject:
        """Read one object.

        Raises `ObjectNotFound`, also for an object that is given up.
        """
        try:
            return self._store.get(key)
        except ObjectUnreadable:
            if key not in self._given_up:
                raise
            raise ObjectNotFound(key) from None

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        """Write like `ObjectStore.replace`, but unconditionally over an object that is given up."""
        if expected is None and key in self._given_up:
            # To evaluate a precondition, the server would have to read the unreadable object.
            logger.warning("%s cannot be read and is overwritten", key)
            return self._store.put(key, body)
        return self._store.replace(key, body, expected)

    def replace_shelf(self, unpacks: Unpacks) -> None:
        """Overwrite `bundles.json` with an empty catalog, unless a bundle is being unpacked.

        The loss signal requests a sweep, which has all bundles unpacked again.
        """
        token = new_token()
        # The lease of the unpackers, which are the other writers of the catalog.
        if not unpacks.take(token):
            return
        try:
            logger.warning("%s cannot be read and is emptied; a sweep has all bundles unpacked again", BUNDLES)
            self._store.put(BUNDLES, Shelf().encode())
            self._backlog.add_evidence("files_changed")
        finally:
            unpacks.give_back(token)
