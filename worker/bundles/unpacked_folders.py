"""The unpacked versions of bundles in the output bucket: reading, writing and removing them."""

from collections import deque
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared.formats.bundle_catalog import OVER_BUDGET_REASON, BundleCatalog
from shared.formats.object_names import UNPACKED_FOLDER
from shared.object_store import ObjectNotFound, ObjectStore, ObjectUnreadable
from shared.progress.leases import Lease
from worker.bundles.catalog import DEFAULT_RULES, BundleRules, read_catalog
from worker.bundles.index import (
    BundleIndex,
    InvalidIndex,
    make_index_key,
    make_unpacked_image_key,
)
from worker.bundles.members import InvalidArchive

MAX_WRITES_IN_FLIGHT = 128
MAX_BYTES_IN_FLIGHT = 64 << 20
"""Maximum number of pending writes of unpacked images, and of their bytes."""


STORED_COPIES = 2
"""How often an image is stored: unpacked, and as the image copy that a row names."""
COUNTED_INDEX_COPIES = 20
"""How often an index is counted. Processes hold indexes in memory, and each sweep reads all, so of
the default budget they may take 1 GB: a small archive can have long names and paths."""
DEFAULT_MAX_BYTES = 20_000_000_000


class OverBudget(InvalidArchive):
    """A bundle exceeds the disk budget: it needs `needed_bytes` or more."""

    def __init__(self, reason: str, needed_bytes: int) -> None:
        super().__init__(reason)
        self.needed_bytes = needed_bytes


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """The disk space for everything that is unpacked from bundles, and what of it is free."""

    max_bytes: int
    free_bytes: int

    def check(self, needed_bytes: int) -> None:
        """Raise `OverBudget` if a bundle needs more than what is free."""
        if needed_bytes <= self.free_bytes:
            return
        needed_mb, free_mb, max_mb = (
            count / 1_000_000 for count in (needed_bytes, max(0, self.free_bytes), self.max_bytes)
        )
        raise OverBudget(
            f"{OVER_BUDGET_REASON}: it needs at least {needed_mb:,.0f} MB, and {free_mb:,.0f} of "
            f"the {max_mb:,.0f} MB of MAX_UNPACKED_MB are free; delete other bundles or raise the "
            "setting, and the next sweep tries again",
            needed_bytes,
        )


class ObjectWriter:
    """Writes objects concurrently, except those that exist with the same ETag.

    `stored_bytes` is the disk space of all of them, which must not exceed `budget`. Holds a bounded
    number of bytes. No write is in flight after the `with` block: a late write
    would recreate an object after its folder was deleted.
    """

    def __init__(
        self, output: ObjectStore, pool: Executor, etags: dict[str, str], budget: DiskBudget
    ) -> None:
        self.stored_bytes = 0
        self._budget = budget
        self._output = output
        self._pool = pool
        self._etags = etags
        self._in_flight: deque[tuple[Future[str], int]] = deque()
        self._bytes_in_flight = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unfinished = [write for write, _ in self._in_flight]
        for write in unfinished:
            write.cancel()
        wait(unfinished)

    def put(self, key: str, body: bytes, etag: str) -> None:
        """Write an image in the background, unless it exists with this ETag.

        Raises `OverBudget` before the write.
        """
        self.reserve(STORED_COPIES * len(body))
        if self._etags.get(key) == etag:
            return
        if key in self._etags:  # a pending write of the same key must not overtake this one
            self.finish()
        self._etags[key] = etag
        self._bytes_in_flight += len(body)
        self._in_flight.append((self._pool.submit(self._output.put, key, body), len(body)))
        while (
            len(self._in_flight) > MAX_WRITES_IN_FLIGHT
            or self._bytes_in_flight > MAX_BYTES_IN_FLIGHT
        ):
            self._wait_for_oldest()

    def reserve(self, count: int) -> None:
        """Count bytes that are stored. Raises `OverBudget`."""
        self.stored_bytes += count
        self._budget.check(self.stored_bytes)

    def finish(self) -> None:
        """Wait until every object is written. Raises the error of the first that failed."""
        while self._in_flight:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        write, size = self._in_flight.popleft()
        self._bytes_in_flight -= size
        write.result()


class UnpackedFolders:
    """The folders of unpacked versions in `output`, by the digest of the version.

    `rules` are those by which bundles are unpacked now; the digest depends on them. All folders may
    take `max_bytes` on the disk, with the image copies that rows name.

    Methods that send a request per page renew the unpack lease with each one, and raise
    `redis.exceptions.LockNotOwnedError` if it was lost. Every method may raise `StoreUnavailable`.
    """

    def __init__(
        self,
        output: ObjectStore,
        lease: Lease,
        max_bytes: int = DEFAULT_MAX_BYTES,
        rules: BundleRules = DEFAULT_RULES,
    ) -> None:
        self.rules = rules
        self._output = output
        self._lease = lease
        self._max_bytes = max_bytes

    def get_budget(self, catalog: BundleCatalog, key: str, digest: str) -> DiskBudget:
        """Return the budget for a version of a bundle, beside all that is unpacked.

        That includes what is not visible: attempts of other bundles that killed their worker. The
        previous version of the bundle is not counted: it is deleted after the new one is visible.
        """
        known = {entry.digest for entry in catalog.entries.values()} | {digest}
        invisible_bytes = 0
        for folder in set(self._output.list_folders(UNPACKED_FOLDER)) - known:
            for page in self._output.list_objects(folder=f"{UNPACKED_FOLDER}/{folder}"):
                invisible_bytes += sum(info.size for info in page)
                self._lease.renew()
        stored_bytes = catalog.count_stored_bytes(key) + invisible_bytes
        return DiskBudget(self._max_bytes, self._max_bytes - stored_bytes)

    def renew_lease(self) -> None:
        """Renew the unpack lease."""
        self._lease.renew()

    def list_etags(self, digest: str) -> dict[str, str]:
        """Return the ETag of each object of an unpacked version, by key."""
        etags: dict[str, str] = {}
        for page in self._output.list_objects(folder=f"{UNPACKED_FOLDER}/{digest}"):
            etags.update((info.key, info.etag) for info in page)
            self._lease.renew()
        return etags

    def read_index(self, digest: str) -> BundleIndex | None:
        """Return the index of an unpacked version, or None if it is missing or invalid."""
        with suppress(ObjectNotFound, ObjectUnreadable, InvalidIndex):
            # Callers use only users and images, so the key and date of the bundle do not matter.
            return BundleIndex("", 0, self._output.get(make_index_key(digest)).body)
        return None

    def is_complete(self, digest: str) -> bool:
        """Return whether the index and every image of an unpacked version exist."""
        index = self.read_index(digest)
        if index is None:
            return False
        # Their ETags say nothing: where objects are encrypted, they are no MD5s. An object of this
        # folder is never replaced by another image.
        existing_keys = self.list_etags(digest).keys()
        images = ((user_id, image) for user_id, _, image in index.iterate_users() if image)
        return all(
            make_unpacked_image_key(digest, user_id, image) in existing_keys
            for user_id, image in images
        )

    def open_writer(self, digest: str, pool: Executor, budget: DiskBudget) -> ObjectWriter:
        """Return a writer that skips what exists in the folder; `pool` runs its requests."""
        return ObjectWriter(self._output, pool, self.list_etags(digest), budget)

    def write_index(self, digest: str, body: bytes) -> None:
        """Write the index. It is the last object of a version: it implies that all images exist."""
        self._output.put(make_index_key(digest), body)

    def remove_folder(self, digest: str) -> None:
        """Delete the folder of an unpacked version."""
        for page in self._output.list_objects(folder=f"{UNPACKED_FOLDER}/{digest}"):
            # Before the deletion: without the lease, another process may write this folder.
            self._lease.renew()
            self._output.delete_many([info.key for info in page])

    def remove_invisible(self) -> None:
        """Delete the folders that no catalog entry names.

        Skipped while another process holds the unpack lease, because its folder is not in the
        catalog yet.
        """
        with self._lease.hold() as is_held:
            if not is_held:
                return
            catalog, _ = read_catalog(self._output)
            visible_digests = {entry.digest for entry in catalog.entries.values()}
            for digest in set(self._output.list_folders(UNPACKED_FOLDER)) - visible_digests:
                self.remove_folder(digest)
