"""When was an object replaced?  Seen on MinIO's disk, because asking MinIO would slow down what is measured.

While a GET or HEAD reads an object MinIO holds a read lock on it, and a PUT that finds the lock taken waits up to 50 ms
before it tries again.  A client that asks every few milliseconds whether the row is there therefore delays the row.  So
the benchmark looks at the file in which a MinIO with one folder keeps an object's metadata, which takes the old one's
place by a rename and has the object's ETag in plain text.  The ETag is the MD5 of the bytes, and the benchmark knows
what bytes must come; whoever wants to be sure asks with one GET afterwards, when the time is taken.
"""

import time
from pathlib import Path

from bench.rowdrop import TookTooLong

_PAUSE_S = 0.0001


class ObjectWatch:
    """Watches one object of the MinIO that keeps its data in this folder."""

    def __init__(self, data: Path, bucket: str, key: str) -> None:
        self._file = data / bucket / key / "xl.meta"
        self._seen: tuple[int, int] | None = None

    def wait(self, etag: str, patience_s: float = 30.0) -> float:
        """Wait until the object has this ETag; the moment, by `time.perf_counter`.  Raises `TookTooLong`."""
        deadline = time.monotonic() + patience_s
        self._seen = None
        while not self._has(etag):
            if time.monotonic() > deadline:
                raise TookTooLong(f"waited {patience_s:.0f} s for a new {self._file.parent.name}")
            time.sleep(_PAUSE_S)
        return time.perf_counter()

    def _has(self, etag: str) -> bool:
        try:
            state = self._file.stat()
            version = (state.st_ino, state.st_mtime_ns)
            if version == self._seen:
                return False
            self._seen = version
            return etag.encode() in self._file.read_bytes()
        except FileNotFoundError:
            return False
