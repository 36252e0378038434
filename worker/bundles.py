"""What users have in bundles, for whoever reads users: the visible bundles and their indexes, kept in memory.

An index is read when it is first asked for.  Of several bundles the one dropped last that has the part counts, for CSV
and image each on its own.
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
"""Of indexes, in one process; of more the ones not used lately are read again."""


class NotWhole(StoreUnavailable):
    """What was unpacked of a bundle on the shelf is not all there any more; it is marked, to be unpacked again."""


class Outdated(StoreUnavailable):
    """The shelf has changed since it was looked at, and what was unpacked before is gone: look again."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A user's image in a bundle: where it was unpacked to, and how it is named to people."""

    bundle: str
    key: str
    source: str
    etag: str
    extension: str


def unpacked_key(digest: str, user_id: str, image: MemberImage) -> str:
    """Where an image of a bundle is unpacked to."""
    return f"{UNPACKED}/{digest}/{user_id}.{image.extension}"


def index_key(digest: str) -> str:
    """Where the index of a bundle is; no user's image can be there."""
    return f"{UNPACKED}/{digest}/index"


def found_image(bundle: str, digest: str, user_id: str, image: MemberImage) -> FoundImage:
    """Where this image of a bundle was unpacked to."""
    place, source = unpacked_key(digest, user_id, image), member_source(bundle, image.path)
    return FoundImage(bundle, place, source, image.etag, image.extension)


class Bundles:
    """The bundles that one process knows.  Not for several threads.

    Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` when Redis is away; those that need an
    index, `NotWhole` or `Outdated`.
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
        """Know the shelf at least as it was when this token, or that it has none, was noted."""
        token = token or self._backlog.shelf_token()
        if token != self._token:
            self.use(read_shelf(self._output)[0])
            self._token = token

    def use(self, shelf: Shelf) -> None:
        """Answer by this shelf, until the next `look`."""
        self._shelf, self._token, self._visible = shelf, b"", shelf.visible()
        self._not_whole.clear()
        digests = {shelved.digest for _, shelved in self._visible}
        for digest in self._indexes.keys() - digests:
            del self._indexes[digest]

    @property
    def shelf(self) -> Shelf:
        """The shelf as it was looked at last."""
        return self._shelf

    def csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """What the user's CSV in a bundle says."""
        for _, _, index in self.indexes():
            csv = index.csv(user_id)
            if csv:
                return csv
        return None

    def image(self, user_id: str) -> FoundImage | None:
        """The user's image in a bundle."""
        for _, shelved, index in self.indexes():
            image = index.image(user_id)
            if image:
                return found_image(index.key, shelved.digest, user_id, image)
        return None

    def indexes(self) -> Iterator[tuple[str, Shelved, BundleIndex]]:
        """The visible bundles by rank, each with its index."""
        for key, shelved in self._visible:
            yield key, shelved, self._index(key, shelved)

    def missing(self, key: str) -> StoreUnavailable:
        """What to raise when something of a visible bundle is missing; if it ought to be there it is unpacked again."""
        if key not in self._not_whole:
            if read_shelf(self._output)[0].bundles.get(key) != self._shelf.bundles.get(key):
                self._token = b""
                return Outdated(key)
            self._not_whole.add(key)
            self._backlog.mark([bundle_id(key)], "unpack", self._clock())
        return NotWhole(f"what was unpacked of {key} is not all there; it is unpacked again")

    def _index(self, key: str, shelved: Shelved) -> BundleIndex:
        index = self._indexes.get(shelved.digest)
        if index is None or index.since != shelved.visible_since:
            index = self._read(key, shelved)
            self._indexes[shelved.digest] = index
            kept = sum(len(found.body) for found in self._indexes.values())
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
