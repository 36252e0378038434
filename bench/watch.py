"""Detects on MinIO's disk when an object is replaced, because polling MinIO would delay the PUT.

While a GET or HEAD reads an object, MinIO holds a read lock on it. A PUT that finds the lock taken
waits up to 50 ms before it retries, so a client that polls every few milliseconds delays the row
that it waits for. The benchmark therefore polls the metadata file that a single-folder MinIO keeps
for each object. That file is replaced atomically by a rename and contains the ETag in plain text.
The ETag is the MD5 of the bytes, and the expected bytes are known. A GET after the measurement
can verify them.
"""

import time
from pathlib import Path

from bench.rowdrop import WaitTimeout

_POLL_S = 0.0001


class ObjectWatcher:
    """Watches one object of the MinIO with the data folder `data`."""

    def __init__(self, data: Path, bucket: str, key: str) -> None:
        self._file = data / bucket / key / "xl.meta"
        self._last_version: tuple[int, int] | None = None

    def wait_for_etag(self, etag: str, timeout_s: float = 30.0) -> float:
        """Wait until the object has this ETag and return the time, by `time.perf_counter`.

        Raises `WaitTimeout` after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        self._last_version = None
        while not self._has_etag(etag):
            if time.monotonic() > deadline:
                raise WaitTimeout(f"waited {timeout_s:.0f} s for a new {self._file.parent.name}")
            time.sleep(_POLL_S)
        return time.perf_counter()

    def _has_etag(self, etag: str) -> bool:
        try:
            file_status = self._file.stat()
            # A rename changes the inode, so the file is read only after a replacement.
            version = (file_status.st_ino, file_status.st_mtime_ns)
            if version == self._last_version:
                return False
            self._last_version = version
            return etag.encode() in self._file.read_bytes()
        except FileNotFoundError:
            return False
