"""Published objects that are there and cannot be read are written anew, like deleted ones.

Several looks have to agree, as nothing can be read back of what is overwritten.  It is overwritten and not deleted
first: a store that takes no new object keeps the old one, which may become readable again.
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
LOOKS_UNREADABLE = 4
"""An object that cannot be read at so many looks running, in 30 s, is given up."""


class ReadableFiles:
    """The published objects, for their writer.  Not for several threads.

    Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` when Redis is away.
    """

    def __init__(self, store: ObjectStore, backlog: Backlog) -> None:
        self._store = store
        self._backlog = backlog
        self._looks = dict[str, int]()
        self._given_up = set[str]()

    def look(self) -> Set[str]:
        """Try to read each of them.  Returns those that are given up, and are to be written anew."""
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
        logger.warning("%s cannot be read, look %d of %d: %s", key, looks, LOOKS_UNREADABLE, error.why)
        if looks == LOOKS_UNREADABLE:
            self._given_up.add(key)
            self._backlog.add_evidence("files_changed")

    def get(self, key: str) -> StoredObject:
        """Read one of them.  Raises `ObjectNotFound`, also of what cannot be read and is given up."""
        try:
            return self._store.get(key)
        except ObjectUnreadable:
            if key not in self._given_up:
                raise
            raise ObjectNotFound(key) from None

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        """Write as `ObjectStore.replace` does; without a condition where an object is that is given up."""
        if expected is None and key in self._given_up:
            # The server would have to read what is there to say whether a condition holds.
            logger.warning("%s could not be read, and is written anew", key)
            return self._store.put(key, body)
        return self._store.replace(key, body, expected)

    def replace_shelf(self, unpacks: Unpacks) -> None:
        """Write an empty `bundles.json`, unless a bundle is unpacked now; the sweep has all bundles unpacked again."""
        token = new_token()
        if not unpacks.take(token):
            return
        try:
            logger.warning("%s could not be read, and is written anew", BUNDLES)
            self._store.put(BUNDLES, Shelf().encode())
            self._backlog.add_evidence("files_changed")
        finally:
            unpacks.give_back(token)
