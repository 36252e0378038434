"""One version of an object as a seekable file, read in blocks by range requests with `If-Match`.

The next block is prefetched while the current one is used. Memory is bounded to a few blocks,
independent of the size of the object.
"""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 4 << 20
"""Size of one range request in bytes."""
_MAX_CACHED_BLOCKS = 4


class RangedFile(io.RawIOBase):
    """A read-only file of `size` bytes over `read_range(start, end)`, which excludes `end`.

    `read_range` runs in threads of `pool`. Any method here may raise what it raises. A single read
    of more than `max_read_bytes` bytes raises `MemoryError`. `before_fetch` is called in the thread
    of the reader before each request.
    """

    def __init__(
        self,
        read_range: Callable[[int, int], bytes],
        size: int,
        pool: Executor,
        max_read_bytes: int,
        before_fetch: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._before_fetch = before_fetch
        self._read_range = read_range
        self.size = size
        self._pool = pool
        self._max_read_bytes = max_read_bytes
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._position = 0

    # -- the interface that io.BufferedReader requires ---------------------------------------------
    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the offset of the next read and return it. Raises `OSError` if it is negative."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("negative seek position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer and return the number of bytes; fewer only at the end."""
        target = memoryview(buffer).cast("B")
        end = min(self._position + len(target), self.size)
        if end - self._position > self._max_read_bytes:
            raise MemoryError(f"one read of more than {self._max_read_bytes:,} bytes")
        body = b"".join(self.read_chunks(self._position, end))
        target[: len(body)] = body
        self._position += len(body)
        return len(body)

    # -- sequential access -------------------------------------------------------------------------
    def read_chunks(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from start to end (excluded), in chunks of at most one block."""
        while start < min(end, self.size):
            number, skip = divmod(start, BLOCK_BYTES)
            block = memoryview(self._get_block(number))[skip : skip + end - start]
            yield block
            start += len(block)

    def _get_block(self, number: int) -> bytes:
        block = self._start_fetch(number)
        # Prefetch only while the access is sequential.
        if (number + 1) * BLOCK_BYTES < self.size and number - 1 in self._blocks:
            self._start_fetch(number + 1)
        while len(self._blocks) > _MAX_CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block.result()

    def _start_fetch(self, number: int) -> "Future[bytes]":
        if number not in self._blocks:
            self._before_fetch()
            start = number * BLOCK_BYTES
            self._blocks[number] = self._pool.submit(
                self._read_range, start, min(start + BLOCK_BYTES, self.size)
            )
        self._blocks.move_to_end(number)
        return self._blocks[number]
