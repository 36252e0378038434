"""Load files and folders into the source bucket (`rowdrop load PATH...`).

Every user file and bundle in a folder and its subfolders is dropped under its file name. A zip is
dropped as a zip. Other files are reported and skipped, by the same rules as in bundles. So are
symbolic links, and what cannot be read. A file that is in the bucket with the same content is not
loaded again, so an interrupted load is idempotent: run it again to resume. An object of the same
size is the file if its ETag is the MD5 of the file. If not, it is read: the ETag of a multipart
upload, or of an object that the server encrypts, says nothing about the content.

Small files are sent in batches of some hundreds by MinIO's tar auto-extract, which is faster than
one request per file. A server without this feature stores the tar as an object: it is then deleted,
and each file is written separately.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from minio import Minio
from minio.commonconfig import SnowballObject

from shared.formats.source_keys import (
    SAMPLE_PREFIX,
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    classify_member,
    explain_duplicate,
    explain_junk,
    rank_path,
)
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    md5_etag,
)

MAX_SMALL_FILE_BYTES = 256 << 10
MAX_BATCH_FILES = 500
MAX_BATCH_BYTES = 8 << 20
"""Maximum size of a file that is sent in a batch, and maximum files and bytes of a batch."""
MAX_SINGLE_PUT_BYTES = 64 << 20
"""Larger files are uploaded in parts."""
COMPARED_BYTES = 8 << 20
"""Size of the ranges in which an object is read to compare it with a file."""
MAX_PARALLEL_TARS = 4
MAX_PARALLEL_PUTS = 32
"""Number of concurrent requests, with and without tar auto-extract."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to load, its key, and its size in bytes. Only an argument may be a link."""

    path: Path
    key: str
    size: int
    is_link: bool = False


@dataclass(slots=True)
class LoadPlan:
    """The files to load, sorted by key, and what is not loaded.

    `skipped` has the files and folders that are not loaded, with the reasons. `junk` has those that
    a program or the system wrote, such as a trash.
    """

    files: list[PlannedFile] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    junk: list[tuple[Path, str]] = field(default_factory=list)

    def iterate_batches(self) -> Iterator[list[PlannedFile]]:
        """Yield the small files in batches."""
        batch: list[PlannedFile] = []
        size = 0
        for file in self.files:
            if file.size > MAX_SMALL_FILE_BYTES:
                continue
            if batch and (len(batch) == MAX_BATCH_FILES or size + file.size > MAX_BATCH_BYTES):
                yield batch
                batch = []
                size = 0
            batch.append(file)
            size += file.size
        if batch:
            yield batch

    def large_files(self) -> list[PlannedFile]:
        """Return the files above `MAX_SMALL_FILE_BYTES`."""
        return [file for file in self.files if file.size > MAX_SMALL_FILE_BYTES]


def make_plan(*paths: Path) -> LoadPlan:
    """Return which of these files, and files in these folders, to load.

    Of several files with the same name, the one of the lowest `rank_path` is loaded, and of those
    the first by the order of the arguments. Raises `OSError` for an argument that does not exist.
    """
    plan = LoadPlan()
    candidates: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_dir():
            candidates += _find_files(path, plan)
            continue
        path.stat()  # raises the `OSError` of a file that is missing or cannot be reached
        reason = _explain_unusable(path.resolve())
        if reason:
            plan.skipped.append((Path(path.name), reason))
        else:
            candidates.append((path, Path(path.name)))
    links = {path for path in paths if path.is_symlink()}
    selected_by_name = dict[str, tuple[Path, Path]]()
    for path, relative_path in sorted(candidates, key=lambda item: rank_path(item[1].as_posix())):
        match classify_member(relative_path.as_posix()):
            case UserFile() | Bundle() if path.name in selected_by_name:
                selected, relative = selected_by_name[path.name]
                shown = selected if relative == relative_path else relative
                plan.skipped.append((relative_path, explain_duplicate(shown.as_posix())))
            case UserFile() | Bundle():
                try:
                    size = path.stat().st_size
                except OSError as error:
                    plan.skipped.append((relative_path, _explain_unreadable(error)))
                    continue
                selected_by_name[path.name] = path, relative_path
                plan.files.append(PlannedFile(path, path.name, size, path in links))
            case IgnoredFile(reason, is_junk):
                (plan.junk if is_junk else plan.skipped).append((relative_path, reason))
    plan.files.sort(key=lambda file: file.key)
    plan.skipped.sort()
    plan.junk.sort()
    return plan


def _find_files(folder: Path, plan: LoadPlan) -> Iterator[tuple[Path, Path]]:
    """Yield each file below the folder, and its path relative to the folder.

    Folders of junk are not entered. They, and what is no file or cannot be read, are added to the
    plan.
    """

    def add_unreadable(error: OSError) -> None:
        path = Path(error.filename).relative_to(folder)
        plan.skipped.append((path, _explain_unreadable(error)))

    for directory, folder_names, names in os.walk(folder, onerror=add_unreadable):
        entered = []
        for name in folder_names:
            path = Path(directory, name)
            reason = explain_junk(name)
            if reason and os.access(path, os.R_OK | os.X_OK, effective_ids=True):
                plan.junk.append((path.relative_to(folder), reason))
                continue
            reason = "it cannot be read" if reason else _explain_unusable(path)
            if reason:
                plan.skipped.append((path.relative_to(folder), reason))
            else:
                entered.append(name)
        folder_names[:] = entered
        for name in names:
            path = Path(directory, name)
            reason = None if explain_junk(name) else _explain_unusable(path)
            if reason:
                plan.skipped.append((path.relative_to(folder), reason))
            else:
                yield path, path.relative_to(folder)


def _explain_unusable(path: Path) -> str | None:
    """Return why this is neither a file nor a folder, or None."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return _explain_unreadable(error)
    if stat.S_ISLNK(mode):
        return _LINK_REASON
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "it is a device, a pipe or a socket and not a file"


def _open_file(file: PlannedFile) -> BinaryIO:
    """Open a file. Raises `OSError` if a link, a pipe or a device has replaced it since the plan.

    Another user of a shared folder must not choose which other files are loaded, or make a load
    wait for a pipe.
    """
    with ExitStack() as on_error:
        no_follow = 0 if file.is_link else os.O_NOFOLLOW
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | no_follow)
        on_error.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file any more")
        on_error.pop_all()
    return open(descriptor, "rb")  # noqa: PTH123  a descriptor has no path


_LINK_REASON = "it is a link and not a file; load the file that it names"


def _explain_unreadable(error: OSError) -> str:
    return f"it cannot be read: {error.strerror}"


class Loader:
    """Loads into the bucket of `store`; `minio` is a client of the same server.

    `on_progress` is called with the number of processed files. `unreadable` has the files that
    could not be read, with the reasons.
    """

    def __init__(
        self,
        store: ObjectStore,
        minio: Minio,
        on_progress: Callable[[int], None],
        *,
        by_tar: bool = True,
    ) -> None:
        self._store = store
        self._minio = minio
        self._on_progress = on_progress
        self._by_tar = by_tar
        self._existing: dict[str, ObjectInfo] = {}
        self._modified_at = datetime.now(UTC)
        self.loaded = self.unchanged = 0
        self.unreadable: list[tuple[Path, str]] = []

    def load(self, plan: LoadPlan) -> None:
        """Load all files of the plan that can be read.

        Raises what an unreachable server raises. Some files may be loaded then.
        """
        # One LIST costs less than a request for each file.
        self._existing = {info.key: info for page in self._store.list_objects() for info in page}
        batches = plan.iterate_batches()
        if self._by_tar:
            self._send_first_batch(next(batches, []))
        with ThreadPoolExecutor(MAX_PARALLEL_TARS if self._by_tar else MAX_PARALLEL_PUTS) as pool:
            self._count_sent(pool.map(self._send_batch, batches))
            self._count_sent(pool.map(self._send_large, plan.large_files()))

    def _count_sent(self, sent: Iterable[tuple[int, int]]) -> None:
        for loaded, unchanged in sent:
            self.loaded += loaded
            self.unchanged += unchanged
            self._on_progress(self.loaded + self.unchanged)

    def _send_first_batch(self, batch: Sequence[PlannedFile]) -> None:
        """Send the first batch as a tar, to detect whether the server extracts it."""
        bodies = self._read_files(batch)
        changed = self._select_changed(bodies)
        if changed:
            tar = self._send_tar(changed)
            # The tar was stored as an object, and not extracted.
            if self._store.get_info(next(iter(changed))) is None:
                self._store.delete(tar)
                self._by_tar = False
                self._put_each(changed)
        self._count_sent([(len(changed), len(bodies) - len(changed))])

    def _send_batch(self, batch: Sequence[PlannedFile]) -> tuple[int, int]:
        bodies = self._read_files(batch)
        changed = self._select_changed(bodies)
        if changed:
            if self._by_tar:
                self._send_tar(changed)
            else:
                self._put_each(changed)
        return len(changed), len(bodies) - len(changed)

    def _read_files(self, batch: Sequence[PlannedFile]) -> dict[str, bytes]:
        bodies: dict[str, bytes] = {}
        for file in batch:
            with self._report_unreadable(file), _open_file(file) as content:
                bodies[file.key] = content.read()
        return bodies

    @contextmanager
    def _report_unreadable(self, file: PlannedFile) -> Iterator[None]:
        """Report an `OSError` of the block, which only reads the file, and continue."""
        try:
            yield
        except OSError as error:
            self.unreadable.append((file.path, _explain_unreadable(error)))

    def _select_changed(self, bodies: dict[str, bytes]) -> dict[str, bytes]:
        return {
            key: body
            for key, body in bodies.items()
            if not self._exists(key, len(body), io.BytesIO(body))
        }

    def _exists(self, key: str, size: int, content: BinaryIO) -> bool:
        """Return whether the bucket has this content under the key."""
        existing = self._existing.get(key)
        if existing is None or existing.size != size:
            return False
        # The MD5 of a file that was uploaded in parts would only be read to differ.
        if size <= MAX_SINGLE_PUT_BYTES:
            if existing.etag == md5_etag(content.read()):
                return True
            content.seek(0)
        try:
            return all(
                self._store.get_range(key, existing.etag, start, min(start + COMPARED_BYTES, size))
                == content.read(COMPARED_BYTES)
                for start in range(0, size, COMPARED_BYTES)
            )
        except (ObjectNotFound, ObjectUnreadable, PreconditionFailed):
            return False

    def _send_tar(self, bodies: dict[str, bytes]) -> str:
        members = [
            SnowballObject(key, data=io.BytesIO(body), length=len(body), mod_time=self._modified_at)
            for key, body in bodies.items()
        ]
        return str(self._minio.upload_snowball_objects(self._store.bucket, members).object_name)

    def _put_each(self, bodies: dict[str, bytes]) -> None:
        for key, body in bodies.items():
            self._store.put(key, body)

    def _send_large(self, file: PlannedFile) -> tuple[int, int]:
        content = self._open_readable(file)
        if content is None:
            return 0, 0
        with content:
            if self._exists(file.key, file.size, content):
                return 0, 1
            if file.size > MAX_SINGLE_PUT_BYTES:
                content.seek(0)
                size = os.fstat(content.fileno()).st_size
                self._minio.put_object(self._store.bucket, file.key, content, size)
                return 1, 0
        bodies = self._read_files([file])
        self._put_each(bodies)
        return len(bodies), 0

    def _open_readable(self, file: PlannedFile) -> BinaryIO | None:
        with self._report_unreadable(file), ExitStack() as on_error:
            content = on_error.enter_context(_open_file(file))
            content.read(1)
            content.seek(0)
            on_error.pop_all()
            return content
        return None


def is_empty(store: ObjectStore) -> bool:
    """Return whether the bucket has no user file and no bundle; the sample is not counted."""
    keys = (info.key for page in store.list_objects() for info in page)
    return all(
        key.startswith(SAMPLE_PREFIX) or isinstance(classify_key(key), IgnoredFile) for key in keys
    )
