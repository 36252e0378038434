"""Cache of the bundle catalog and the bundle indexes in one process, used to read users.

An index is loaded on first use. Its `UserFilter` stays when the index is evicted, so a read loads
only the indexes of bundles that have a file of the user.

If several bundles contain a part of a user (CSV or image), the most recently dropped bundle wins,
for each part separately.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from shared.formats.bundle_catalog import BundleCatalog, CatalogEntry
from shared.formats.records import InvalidCsv, ValidCsv
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectNotFound, ObjectStore, ObjectUnreadable, StoreUnavailable
from worker.bundles.catalog import CatalogVersion, read_catalog
from worker.bundles.index import (
    BundleIndex,
    InvalidIndex,
    UnpackedImage,
    UserFilter,
    locate_unpacked_image,
    make_index_key,
)
from worker.state.user_states import UserStates

MAX_INDEX_CACHE_BYTES = 128 << 20
"""Maximum size of all cached indexes in bytes. The least recently used are evicted above it."""
MAX_LOAD_S = 10.0
"""Seconds after `ensure_version` in which lookups load indexes. So a batch ends before its worker
is killed, and a retry has the filters of those that were loaded."""


class BundleIncomplete(StoreUnavailable):
    """Unpacked objects of a visible bundle are missing; the bundle is marked, to restore them."""


class StaleCatalog(StoreUnavailable):
    """The cached bundle catalog is stale, and objects that it refers to were removed.

    The catalog is reloaded at the next `ensure_version`, so a retry succeeds.
    """


class BundleLookup:
    """The visible bundles, as cached by one process. Not thread-safe.

    Every method may raise `StoreUnavailable`, or `redis.exceptions.RedisError` if Redis is
    unavailable. Methods that need an index may raise `BundleIncomplete` or `StaleCatalog`.
    """

    def __init__(
        self,
        output: ObjectStore,
        catalog_version: CatalogVersion,
        users: UserStates,
        clock: Callable[[], float] = time.time,
        max_cache_bytes: int = MAX_INDEX_CACHE_BYTES,
    ) -> None:
        self._output = output
        self._catalog_version = catalog_version
        self._users = users
        self._clock = clock
        self._max_cache_bytes = max_cache_bytes
        self._loaded_version = b""
        self._load_until = 0.0
        self._catalog = BundleCatalog()
        self._visible_entries: list[tuple[str, CatalogEntry]] = []
        self._indexes: OrderedDict[str, BundleIndex] = OrderedDict()
        self._filters: dict[str, UserFilter] = {}
        self._incomplete_keys: set[str] = set()

    def ensure_version(self, catalog_version: bytes | None) -> None:
        """Begin a batch of lookups; reload the catalog if its version is not `catalog_version`.

        With None, the current version in Redis is compared. The version is read before the catalog,
        so the cached catalog is at least as recent as its version.
        """
        self._load_until = self._clock() + MAX_LOAD_S
        catalog_version = catalog_version or self._catalog_version.current()
        if catalog_version != self._loaded_version:
            self.use_catalog(read_catalog(self._output)[0])
            self._loaded_version = catalog_version

    def use_catalog(self, catalog: BundleCatalog) -> None:
        """Use this catalog until the next `ensure_version`; evict indexes that it does not name."""
        # An empty token equals no catalog version: the next `ensure_version` reloads the catalog.
        self._catalog = catalog
        self._loaded_version = b""
        self._visible_entries = catalog.visible_entries()
        self._incomplete_keys.clear()
        digests = {entry.digest for _, entry in self._visible_entries}
        for digest in self._indexes.keys() - digests:
            del self._indexes[digest]
        for digest in self._filters.keys() - digests:
            del self._filters[digest]

    def reload_catalog(self) -> None:
        """Load the current catalog, and invalidate the catalogs that other processes cache."""
        catalog_version = self._catalog_version.current()
        catalog, etag = read_catalog(self._output)
        self._catalog_version.renew(etag, catalog_version)
        self.use_catalog(catalog)

    @property
    def catalog(self) -> BundleCatalog:
        """The cached bundle catalog."""
        return self._catalog

    def find_csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """Return the user's CSV in the first visible bundle that has one; None without any."""
        for key, entry in self._visible_entries:
            if self._get_filter(key, entry).may_have_csv(user_id):
                csv = self._get_index_in_time(key, entry).find_csv(user_id)
                if csv:
                    return csv
        return None

    def find_image(self, user_id: str) -> UnpackedImage | None:
        """Return the user's image in the first visible bundle that has one; None without any."""
        for key, entry in self._visible_entries:
            if self._get_filter(key, entry).may_have_image(user_id):
                image = self._get_index_in_time(key, entry).find_image(user_id)
                if image:
                    return locate_unpacked_image(key, entry.digest, user_id, image)
        return None

    def read_indexes(self) -> Iterator[tuple[str, CatalogEntry, BundleIndex]]:
        """Yield the visible bundles by rank: key, catalog entry, index."""
        for key, entry in self._visible_entries:
            yield key, entry, self._get_index(key, entry)

    def report_missing(self, key: str) -> StoreUnavailable:
        """Return the error to raise if an unpacked object of a visible bundle is missing.

        `StaleCatalog` if the catalog has changed since it was cached. Otherwise the object should
        exist: the bundle is marked once, to be unpacked again, and the error is `BundleIncomplete`.
        """
        if key not in self._incomplete_keys:
            if read_catalog(self._output)[0].entries.get(key) != self._catalog.entries.get(key):
                self._loaded_version = b""
                return StaleCatalog(key)
            self._incomplete_keys.add(key)
            self._users.mark([make_bundle_id(key)], "unpack", self._clock())
        return BundleIncomplete(
            f"unpacked objects of {key} are missing; "
            "the bundle is marked and will be unpacked again"
        )

    def _get_filter(self, key: str, entry: CatalogEntry) -> UserFilter:
        user_filter = self._filters.get(entry.digest)
        if user_filter is None:
            user_filter = UserFilter(self._get_index_in_time(key, entry))
            self._filters[entry.digest] = user_filter
        return user_filter

    def _get_index_in_time(self, key: str, entry: CatalogEntry) -> BundleIndex:
        if entry.digest not in self._indexes and self._clock() > self._load_until:
            raise StoreUnavailable(
                f"loading the indexes of bundles took longer than {MAX_LOAD_S:.0f} s; "
                "unread users stay dirty and are retried"
            )
        return self._get_index(key, entry)

    def _get_index(self, key: str, entry: CatalogEntry) -> BundleIndex:
        index = self._indexes.get(entry.digest)
        # The same archive, dropped again, has the same digest and another LastModified.
        if index is None or index.last_modified != entry.visible_since:
            index = self._load_index(key, entry)
            self._indexes[entry.digest] = index
            cached_bytes = sum(len(cached.body) for cached in self._indexes.values())
            # The index just loaded stays, even if it alone exceeds the limit.
            while cached_bytes > self._max_cache_bytes and len(self._indexes) > 1:
                _, evicted = self._indexes.popitem(last=False)
                cached_bytes -= len(evicted.body)
        self._indexes.move_to_end(entry.digest)
        return index

    def _load_index(self, key: str, entry: CatalogEntry) -> BundleIndex:
        try:
            return BundleIndex(
                key, entry.visible_since, self._output.get(make_index_key(entry.digest)).body
            )
        except (ObjectNotFound, ObjectUnreadable, InvalidIndex):
            raise self.report_missing(key) from None
