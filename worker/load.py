"""Load a folder into the source bucket: `python -m worker.load FOLDER`.

Every file that is a user's, or a bundle, is dropped under its name, from whatever folder in the folder; a zip as a zip.
What nobody would read is told and not loaded.  What is there already, byte for byte, is not loaded again, so that a
load which was broken off is simply begun anew.

Small files go by MinIO's tar auto-extract, some hundreds in one request, which is faster than a request each.  A server
without it keeps the tar as an object: then that is removed, and each file is put by itself.
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
ONE_REQUEST_BYTES = 64 << 20
"""Larger files are uploaded in parts."""
TAR_SENDERS, SENDERS = 4, 32
MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class File:
    """A file to be loaded, and the key that it gets."""

    path: Path
    key: str
    size: int


@dataclass(slots=True)
class Plan:
    """What is in a folder: the files to be loaded, in order of their keys, and why the others are not."""

    files: list[File] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def batches(self) -> Iterator[list[File]]:
        """The small files, some hundreds at a time."""
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
        """The others."""
        return [file for file in self.files if file.size > SMALL_BYTES]


def plan(folder: Path) -> Plan:
    """Look through a folder.  Of files with the same name the first by its path is loaded.

    Raises `OSError`, also for a folder that may not be read.
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
    def refuse(error: OSError) -> None:  # else it would count as empty
        raise error

    for directory, _, names in os.walk(folder, onerror=refuse):
        yield from (path for path in (Path(directory, name) for name in names) if path.is_file())


class Loader:
    """Loads into the bucket of `store`; `minio` is a client of the same server.

    `told` is told how many files are done.
    """

    def __init__(self, store: ObjectStore, minio: Minio, told: Callable[[int], None], *, by_tar: bool = True) -> None:
        self._store, self._minio, self._told, self._by_tar = store, minio, told, by_tar
        self._there: dict[str, str] = {}
        self._when = datetime.now(UTC)
        self.loaded = self.unchanged = 0

    def load(self, planned: Plan) -> None:
        """Load all of it.  Raises what an unreachable server raises; then some may be loaded."""
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
        """The first batch shows whether the server unpacks tars."""
        bodies = self._new(batch)
        if bodies:
            tar = self._send_tar(bodies)
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
        if file.size > ONE_REQUEST_BYTES:
            self._minio.fput_object(self._store.bucket, file.key, str(file.path))
            return 1, 0
        body = file.path.read_bytes()
        if self._there.get(file.key) == _md5(body):
            return 0, 1
        self._store.put(file.key, body)
        return 1, 0


class Bar:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._out, self._clock = total, out, clock
        self._began = clock()
        self._told = self._began if not out.isatty() else float("-inf")

    def __call__(self, done: int) -> None:
        """So many files are done."""
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
    """Whether nobody has dropped anything yet; the sample does not count."""
    keys = (info.key for page in store.objects() for info in page)
    return all(key.startswith(PREFIX) or isinstance(classify(key), Ignored) for key in keys)


def load(folder: Path, wiring: Wiring, out: TextIO) -> None:
    """Load a folder and say what came of it.  Raises what an unreachable server raises, and `OSError`."""
    planned = plan(folder)
    loader = Loader(wiring.source, wiring.init_client(), Bar(len(planned.files), out))
    loader.load(planned)
    out.write(f"{loader.loaded:,} files loaded into {wiring.source.bucket}, {loader.unchanged:,} were there already\n")
    if planned.left_out:
        out.write(f"{len(planned.left_out):,} files are nobody's, and were not loaded:\n")
        out.writelines(f"  {path}: {reason}\n" for path, reason in planned.left_out[:MOST_TOLD])
        if len(planned.left_out) > MOST_TOLD:
            out.write(f"  and {len(planned.left_out) - MOST_TOLD:,} more\n")
    out.flush()


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def main() -> int:
    """Load the folder that is named.  1 with a message when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m worker.load", description="Load a folder into the source bucket.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--if-empty", action="store_true", help="only into a bucket that has nobody's files yet")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        print(f"{arguments.folder} is no folder", file=sys.stderr)
        return 1
    try:
        wiring = Wiring.from_environment(redis=False)
        if arguments.if_empty and not is_empty(wiring.source):
            print(f"{wiring.source.bucket} has files already; nothing is loaded")
            return 0
        load(arguments.folder, wiring, sys.stdout)
    except (InvalidSettings, StoreUnavailable, MinioException, S3Error, HTTPError, OSError) as error:
        print(f"\nloading was broken off: {error}\nLoad again: what is there is not loaded twice.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
