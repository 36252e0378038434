"""Load a folder into the source bucket: `python -m worker.load FOLDER`.

Every user file and bundle in the folder and its subfolders is dropped under its file name. A zip is
dropped as a zip. Other files are reported and skipped. A file that is in the bucket with the same
content is not loaded again, so an interrupted load is idempotent: run it again to resume.

Small files are sent in batches of some hundreds by MinIO's tar auto-extract, which is faster than
one request per file. A server without this feature stores the tar as an object: it is then deleted,
and each file is written separately.
"""

import argparse
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from minio import Minio
from minio.commonconfig import SnowballObject
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from shared.keys import Bundle, Ignored, UserFile, classify, classify_member
from shared.object_store import ObjectStore, StoreUnavailable
from shared.settings import InvalidSettings
from worker.sample import PREFIX
from worker.wiring import Wiring

SMALL_BYTES, BATCH_FILES, BATCH_BYTES = 256 << 10, 500, 8 << 20
"""Maximum size of a file that is sent in a batch, and maximum files and bytes of a batch."""
ONE_REQUEST_BYTES = 64 << 20
"""Larger files are uploaded in parts."""
TAR_SENDERS, SENDERS = 4, 32
"""Number of concurrent requests, with and without tar auto-extract."""
MOST_TOLD = 20
"""Maximum number of skipped files that are reported by name."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to load, its key, and its size in bytes."""

    path: Path
    key: str
    size: int


@dataclass(slots=True)
class Plan:
    """The files to load, sorted by key, and the skipped files with their reasons."""

    files: list[File] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def batches(self) -> Iterator[list[File]]:
        """Yield the small files in batches."""
        batch: list[File] = []
        size = 0
        for file in self.files:
            if file.size > SMALL_BYTES:
                continue
            if batch and (len(batch) == BATCH_FILES or size + file.size > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(file)
            size += file.size
        if batch:
            yield batch

    def large(self) -> list[File]:
        """Return the files above `SMALL_BYTES`."""
        return [file for file in self.files if file.size > SMALL_BYTES]


def plan(folder: Path) -> Plan:
    """Return which files of a folder to load.

    Of several files with the same name, the first by path is loaded. Raises `OSError`, also for a
    folder that cannot be read.
    """
    found, names = Plan(), dict[str, Path]()
    for path in sorted(_files(folder)):
        name = path.relative_to(folder)
        match classify_member(name.as_posix()):
            case UserFile() | Bundle() if path.name in names:
                found.left_out.append((name, f"{names[path.name]} has the same name, and is loaded"))
            case UserFile() | Bundle():
                names[path.name] = name
                found.files.append(File(path, path.name, path.stat().st_size))
            case Ignored(reason):
                found.left_out.append((name, reason))
    found.files.sort(key=lambda file: file.key)
    return found


def _files(folder: Path) -> Iterator[Path]:
    # By default `os.walk` skips a folder that cannot be read, as if it were empty.
    def refuse(error: OSError) -> None:
        raise error

    for directory, _, names in os.walk(folder, onerror=refuse):
        yield from (path for path in (Path(directory, name) for name in names) if path.is_file())


class Loader:
    """Loads into the bucket of `store`; `minio` is a client of the same server.

    `told` is called with the number of processed files.
    """

    def __init__(self, store: ObjectStore, minio: Minio, told: Callable[[int], None], *, by_tar: bool = True) -> None:
        self._store, self._minio, self._told, self._by_tar = store, minio, told, by_tar
        self._there: dict[str, str] = {}
        self._when = datetime.now(UTC)
        self.loaded = self.unchanged = 0

    def load(self, planned: Plan) -> None:
        """Load all files of the plan.

        Raises what an unreachable server raises. Some files may be loaded then.
        """
        # One LIST costs less than a request for each file.
        self._there = {info.key: info.etag for page in self._store.objects() for info in page}
        batches = planned.batches()
        if self._by_tar:
            self._send_first(next(batches, []))
        with ThreadPoolExecutor(TAR_SENDERS if self._by_tar else SENDERS) as pool:
            self._count(pool.map(self._send_batch, batches))
            self._count(pool.map(self._send_large, planned.large()))

    def _count(self, sent: Iterable[tuple[int, int]]) -> None:
        for loaded, unchanged in sent:
            self.loaded += loaded
            self.unchanged += unchanged
            self._told(self.loaded + self.unchanged)

    def _send_first(self, batch: Sequence[File]) -> None:
        """Send the first batch as a tar, to detect whether the server extracts it."""
        bodies = self._new(batch)
        if bodies:
            tar = self._send_tar(bodies)
            # The tar was stored as an object, and not extracted.
            if self._store.info(next(iter(bodies))) is None:
                self._store.delete(tar)
                self._by_tar = False
                self._put_each(bodies)
        self._count([(len(bodies), len(batch) - len(bodies))])

    def _send_batch(self, batch: Sequence[File]) -> tuple[int, int]:
        bodies = self._new(batch)
        if bodies:
            if self._by_tar:
                self._send_tar(bodies)
            else:
                self._put_each(bodies)
        return len(bodies), len(batch) - len(bodies)

    def _new(self, batch: Sequence[File]) -> dict[str, bytes]:
        bodies = {file.key: file.path.read_bytes() for file in batch}
        return {key: body for key, body in bodies.items() if self._there.get(key) != _md5(body)}

    def _send_tar(self, bodies: dict[str, bytes]) -> str:
        members = [
            SnowballObject(key, data=io.BytesIO(body), length=len(body), mod_time=self._when)
            for key, body in bodies.items()
        ]
        return str(self._minio.upload_snowball_objects(self._store.bucket, members).object_name)

    def _put_each(self, bodies: dict[str, bytes]) -> None:
        for key, body in bodies.items():
            self._store.put(key, body)

    def _send_large(self, file: File) -> tuple[int, int]:
        # The ETag of a multipart upload is not an MD5: an unchanged file cannot be detected.
        if file.size > ONE_REQUEST_BYTES:
            self._minio.fput_object(self._store.bucket, file.key, str(file.path))
            return 1, 0
        body = file.path.read_bytes()
        if self._there.get(file.key) == _md5(body):
            return 0, 1
        self._store.put(file.key, body)
        return 1, 0


class Bar:
    """Progress output: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, total: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._out, self._clock = total, out, clock
        self._began = clock()
        # A terminal shows the bar immediately; a log gets its first line after ten seconds.
        self._told = self._began if not out.isatty() else float("-inf")

    def __call__(self, done: int) -> None:
        """Report the number of processed files."""
        now, is_terminal = self._clock(), self._out.isatty()
        if now - self._told < (0.1 if is_terminal else 10) and done < self._total:
            return
        self._told = now
        filled = 30 * done // max(1, self._total)
        rate = done / max(now - self._began, 0.001)
        text = f"[{'#' * filled}{'.' * (30 - filled)}] {done:,} of {self._total:,} files, {rate:,.0f} a second"
        self._out.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
        if done >= self._total and is_terminal:
            self._out.write("\n")
        self._out.flush()


def is_empty(store: ObjectStore) -> bool:
    """Return whether the bucket has no user file and no bundle; the sample is not counted."""
    keys = (info.key for page in store.objects() for info in page)
    return all(key.startswith(PREFIX) or isinstance(classify(key), Ignored) for key in keys)


def load(folder: Path, wiring: Wiring, out: TextIO) -> None:
    """Load a folder and print a summary.

    Raises what an unreachable server raises, and `OSError`.
    """
    planned = plan(folder)
    loader = Loader(wiring.source, wiring.init_client(), Bar(len(planned.files), out))
    loader.load(planned)
    out.write(f"{loader.loaded:,} files loaded into {wiring.source.bucket}, {loader.unchanged:,} were there already\n")
    if planned.left_out:
        out.write(f"{len(planned.left_out):,} files were not loaded:\n")
        out.writelines(f"  {path}: {reason}\n" for path, reason in planned.left_out[:MOST_TOLD])
        if len(planned.left_out) > MOST_TOLD:
            out.write(f"  and {len(planned.left_out) - MOST_TOLD:,} more\n")
    out.flush()


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def main() -> int:
    """Load the folder given as argument; return 1 and print a message if that fails."""
    parser = argparse.ArgumentParser(prog="python -m worker.load", description="Load a folder into the source bucket.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--if-empty", action="store_true", help="load only if the bucket has no user file and no bundle"
    )
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        print(f"{arguments.folder} is not a folder", file=sys.stderr)
        return 1
    try:
        wiring = Wiring.from_environment(redis=False)
        if arguments.if_empty and not is_empty(wiring.source):
            print(f"{wiring.source.bucket} has files already; nothing was loaded")
            return 0
        load(arguments.folder, wiring, sys.stdout)
    except (InvalidSettings, StoreUnavailable, MinioException, S3Error, HTTPError, OSError) as error:
        print(f"\nloading failed: {error}\nRun the command again: files that were loaded are skipped.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
