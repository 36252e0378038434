"""The unpacked versions of bundles in the output bucket: writing and removing their objects."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from types import TracebackType
from typing import Self

from shared.formats.object_names import UNPACKED_FOLDER
from shared.object_store import ObjectStore

MAX_WRITES_IN_FLIGHT = 128
MAX_BYTES_IN_FLIGHT = 64 << 20
"""Maximum number of pending writes of unpacked images, and of their bytes."""


class ObjectWriter:
    """Writes objects concurrently, except those that exist with the same ETag.

    Holds a bounded number of bytes. No write is in flight after the `with` block: a late write
    would recreate an object after its folder was deleted.
    """

    def __init__(self, output: ObjectStore, pool: Executor, etags: dict[str, str]) -> None:
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
        """Write an object in the background, unless it exists with this ETag."""
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

    def finish(self) -> None:
        """Wait until every object is written. Raises the error of the first that failed."""
        while self._in_flight:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        write, size = self._in_flight.popleft()
        self._bytes_in_flight -= size
        write.result()


def remove_folder(output: ObjectStore, digest: str, lease: Callable[[], None]) -> None:
    """Delete the folder of an unpacked version; `lease` renews the lease per page."""
    for page in output.list_objects(folder=f"{UNPACKED_FOLDER}/{digest}"):
        output.delete_many([info.key for info in page])
        lease()
