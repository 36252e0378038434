"""One version of an object as a file: read in blocks, by ranges with `If-Match`, one block ahead of who reads on.

Memory is bounded: a few blocks, whatever the size of the object.
"""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

BLOCK_BYTES = 4 << 20
_KEPT_BLOCKS = 4


class RangedFile(io.RawIOBase):
    """`read`, called in threads of `pool`, gives the bytes from start to end (not included), of `size` that there are.

    Whatever it raises, any method here may raise.  Reading more than `most` bytes at once raises `MemoryError`.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, pool: Executor, most: int) -> None:
        super().__init__()
        self._read, self.size, self._pool, self._most = read, size, pool, most
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._place = 0

    # -- as zipfile wants it -----------------------------------------------------------------------------------------
    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next `read`."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place.  Raises `OSError` for one before the beginning."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("a place before the beginning")
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        """The next bytes, all of them for -1; fewer only at the end."""
        end = self.size if size < 0 else min(self._place + size, self.size)
        if end - self._place > self._most:
            raise MemoryError(f"more than {self._most:,} bytes at once")
        body = b"".join(self.chunks(self._place, end))
        self._place += len(body)
        return body

    # -- as it is read else ------------------------------------------------------------------------------------------
    def chunks(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes from start to end (not included), in pieces of at most a block."""
        while start < min(end, self.size):
            number, skip = divmod(start, BLOCK_BYTES)
            block = memoryview(self._block(number))[skip : skip + end - start]
            yield block
            start += len(block)

    def _block(self, number: int) -> bytes:
        wanted = self._begun(number)
        if (number + 1) * BLOCK_BYTES < self.size and number - 1 in self._blocks:
            self._begun(number + 1)
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return wanted.result()

    def _begun(self, number: int) -> "Future[bytes]":
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            self._blocks[number] = self._pool.submit(self._read, start, min(start + BLOCK_BYTES, self.size))
        self._blocks.move_to_end(number)
        return self._blocks[number]
