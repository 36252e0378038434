"""Cache of the bundle catalog and the bundle indexes in one process, used to read users.

An index is loaded on first use. If several bundles contain a part of a user (CSV or image), the
most recently dropped bundle wins, for each part separately.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shared.keys import bundle_id, member_source
from shared.object_store import ObjectNotFound, ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.published import UNPACKED
from shared.records import InvalidCsv, ValidCsv
from worker.backlog import Backlog
from worker.bundle_index import BundleIndex, InvalidIndex, MemberImage
from worker.shelf import Shelf, Shelved, read_shelf

MOST_KEPT_BYTES = 128 << 20
"""Maximum size of all cached indexes in bytes. The least recently used are evicted above it."""


class NotWhole(StoreUnavailable):
    """Unpacked objects of a visible bundle are missing; the bundle is marked, to restore them."""


class Outdated(StoreUnavailable):
    """The cached bundle catalog is stale, and objects that it refers to were removed.

    The catalog is reloaded at the next `look`, so a retry succeeds.
    """


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of a user in a bundle.

    `key` is its unpacked object in the output bucket, with this ETag. `source` is its name in
    messages: `<bundle>#<path>`.
    """

    bundle: str
    key: str
    source: str
    etag: str
    extension: str


def unpacked_key(digest: str, user_id: str, image: MemberImage) -> str:
    """Return the key in the output bucket to which an image of a bundle is unpacked."""
    return f"{UNPACKED}/{digest}/{user_id}.{image.extension}"


def index_key(digest: str) -> str:
    """Return the key of a bundle's index; it cannot collide with the key of an unpacked image."""
    return f"{UNPACKED}/{digest}/index"


def found_image(bundle: str, digest: str, user_id: str, image: MemberImage) -> FoundImage:
    """Return the resolved form of an image in a bundle: its unpacked key and its source."""
    place, source = unpacked_key(digest, user_id, image), member_source(bundle, image.path)
    return FoundImage(bundle, place, source, image.etag, image.extension)


class Bundles:
    """The visible bundles, as cached by one process. Not thread-safe.

    Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` if Redis is
    unavailable. Methods that need an index may raise `NotWhole` or `Outdated`.
    """

    def __init__(
        self,
        output: ObjectStore,
        backlog: Backlog,
        clock: Callable[[], float] = time.time,
        most_kept: int = MOST_KEPT_BYTES,
    ) -> None:
        self._output, self._backlog, self._clock, self._most_kept = output, backlog, clock, most_kept
        self._token, self._shelf = b"", Shelf()
        self._visible: list[tuple[str, Shelved]] = []
        self._indexes: OrderedDict[str, BundleIndex] = OrderedDict()
        self._not_whole: set[str] = set()

    def look(self, token: bytes | None) -> None:
        """Reload the catalog if its version is not `token`.

        With None, the current version in Redis is compared. The version is read before the catalog,
        so the cached catalog is at least as recent as its version.
        """
        token = token or self._backlog.shelf_token()
        if token != self._token:
            self.use(read_shelf(self._output)[0])
            self._token = token

    def use(self, shelf: Shelf) -> None:
        """Use this catalog until the next `look`, and evict the indexes that it does not name."""
        # An empty token equals no catalog version, so the next `look` reloads the catalog.
        self._shelf, self._token, self._visible = shelf, b"", shelf.visible()
        self._not_whole.clear()
        digests = {shelved.digest for _, shelved in self._visible}
        for digest in self._indexes.keys() - digests:
            del self._indexes[digest]

    @property
    def shelf(self) -> Shelf:
        """The cached bundle catalog."""
        return self._shelf

    def csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """Return the user's CSV in the first visible bundle that has one; None without any."""
        for _, _, index in self.indexes():
            csv = index.csv(user_id)
            if csv:
                return csv
        return None

    def image(self, user_id: str) -> FoundImage | None:
        """Return the user's image in the first visible bundle that has one; None without any."""
        for _, shelved, index in self.indexes():
            image = index.image(user_id)
            if image:
                return found_image(index.key, shelved.digest, user_id, image)
        return None

    def indexes(self) -> Iterator[tuple[str, Shelved, BundleIndex]]:
        """Yield the visible bundles by rank: key, catalog entry, index."""
        for key, shelved in self._visible:
            yield key, shelved, self._index(key, shelved)

    def missing(self, key: str) -> StoreUnavailable:
        """Return the error to raise if an unpacked object of a visible bundle is missing.

        `Outdated` if the catalog has changed since it was cached. Otherwise the object should
        exist: the bundle is marked once, to be unpacked again, and the error is `NotWhole`.
        """
        if key not in self._not_whole:
            if read_shelf(self._output)[0].bundles.get(key) != self._shelf.bundles.get(key):
                self._token = b""
                return Outdated(key)
            self._not_whole.add(key)
            self._backlog.mark([bundle_id(key)], "unpack", self._clock())
        return NotWhole(f"unpacked objects of {key} are missing; the bundle is marked and will be unpacked again")

    def _index(self, key: str, shelved: Shelved) -> BundleIndex:
        index = self._indexes.get(shelved.digest)
        # The same archive, dropped again, has the same digest and another LastModified.
        if index is None or index.since != shelved.visible_since:
            index = self._read(key, shelved)
            self._indexes[shelved.digest] = index
            kept = sum(len(found.body) for found in self._indexes.values())
            # The index just loaded stays, even if it alone exceeds the limit.
            while kept > self._most_kept and len(self._indexes) > 1:
                _, forgotten = self._indexes.popitem(last=False)
                kept -= len(forgotten.body)
        self._indexes.move_to_end(shelved.digest)
        return index

    def _read(self, key: str, shelved: Shelved) -> BundleIndex:
        try:
            return BundleIndex(key, shelved.visible_since, self._output.get(index_key(shelved.digest)).body)
        except (ObjectNotFound, ObjectUnreadable, InvalidIndex):
            raise self.missing(key) from None
