"""Member types, limits and the rejection error that all archive formats share. No I/O.

An archive is accepted or rejected as a whole: a single unsafe member rejects all of it. A member
that is not a user file is ignored. An invalid CSV is a reject of that user only.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.source_keys import Bundle, IgnoredFile, UserFile, classify_member

MAX_MEMBERS = 250_000
"""Maximum number of members of one archive."""
MAX_UNPACKED_BYTES = 50_000_000_000
"""Maximum unpacked size of all members together, in bytes."""
MAX_MEMBER_IMAGE_BYTES = 100_000_000
"""Maximum size of one image in bytes: an image is held in memory as a whole."""
MAX_COMPRESSION_RATIO = 100
MIN_BYTES_FOR_RATIO_CHECK = 100_000_000
"""Limits against zip bombs.

An archive may unpack to at most `MAX_COMPRESSION_RATIO` times its packed size.
`MIN_BYTES_FOR_RATIO_CHECK` are always allowed, because a small archive of many similar files
compresses better than that.
"""

MAX_UNCHECKED_IMAGE_BYTES = 1_000_000
"""A larger image must begin like one: 100 MB of zeros pack to a few bytes and are no image."""
MAX_CPU_S = 60.0
CPU_S_PER_PACKED_MB = 1.0
"""Limit against archives that are expensive to read, in seconds of processor time.

Each megabyte of 1,000,000 bytes of the archive adds `CPU_S_PER_PACKED_MB`.
"""

# PNG, JPEG, GIF, BMP, TIFF and raw formats of cameras, WebP, and HEIC and AVIF.
_IMAGE_SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|....ftyp", re.DOTALL
)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


class InvalidArchive(Exception):
    """An archive that cannot be used; `reason` is shown to the user who dropped it.

    The reason is published, so it contains nothing of the archive. `member_path` is the path of the
    member that is not valid, for the log.
    """

    def __init__(self, reason: str, member_path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.member_path = member_path


class MemberName(NamedTuple):
    """Identifies a member: its path, and its position in the list of all members, from 1.

    `unzip -l` and `tar -tf` list them in this order.
    """

    number: int
    path: str

    def error(self, problem: str) -> InvalidArchive:
        """Return the error for this member; `problem` continues "member 7"."""
        return InvalidArchive(f"member {self.number} {problem}", self.path)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    `body` is empty if the member is not a user file. For a CSV above the size limit, `body` is cut
    to the first `MAX_CSV_BYTES` + 1 bytes.
    """

    path: str
    file: UserFile | IgnoredFile
    body: bytes


def check_member_path(name: MemberName) -> UserFile | IgnoredFile | None:
    """Return what kind of file the member at this path is; None for a member to skip.

    Raises `InvalidArchive` if the path leads out of the archive, or if the member is an archive
    itself.
    """
    path = name.path
    if path.startswith("/") or _WINDOWS_DRIVE.match(path) or ".." in path.split("/"):
        raise name.error("has a path that leads out of the archive")
    file = classify_member(path)
    if isinstance(file, Bundle):
        raise name.error("is another archive; drop that one by itself")
    return file


def max_kept_bytes(name: MemberName, file: UserFile | IgnoredFile, size: int) -> int:
    """Return how many bytes to keep of a member of `size` bytes.

    Raises `InvalidArchive` for an image above `MAX_MEMBER_IMAGE_BYTES`.
    """
    if isinstance(file, IgnoredFile):
        return 0
    if file.is_csv:
        # One byte above the limit: the CSV parser then rejects the file as too large.
        return MAX_CSV_BYTES + 1
    if size > MAX_MEMBER_IMAGE_BYTES:
        raise name.error(f"is an image of more than {MAX_MEMBER_IMAGE_BYTES:,} bytes")
    return size


def check_image(name: MemberName, file: UserFile | IgnoredFile, body: bytes) -> None:
    """Raise `InvalidArchive` if a large image does not begin like an image of any format.

    The extension may be that of another format, as cameras and converters cause it.
    """
    if isinstance(file, IgnoredFile) or file.is_csv or len(body) <= MAX_UNCHECKED_IMAGE_BYTES:
        return
    if not _IMAGE_SIGNATURE.match(body):
        raise name.error(
            f"is named as an image and has {len(body):,} bytes, but it is no image; leave it out"
        )


def check_size(unpacked_bytes: int, packed_bytes: int) -> None:
    """Raise `InvalidArchive` if the unpacked size exceeds a limit; both sizes are in bytes."""
    if unpacked_bytes > MAX_UNPACKED_BYTES:
        raise InvalidArchive(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    if unpacked_bytes > max(MIN_BYTES_FOR_RATIO_CHECK, MAX_COMPRESSION_RATIO * packed_bytes):
        raise InvalidArchive(f"it unpacks to more than {MAX_COMPRESSION_RATIO} times its size")


def check_count(members: int) -> None:
    """Raise `InvalidArchive` if the archive has too many members."""
    if members > MAX_MEMBERS:
        raise InvalidArchive(f"it has more than {MAX_MEMBERS:,} members")


class CpuBudget:
    """The processor time that may be spent on one archive, from now on, by this thread.

    It limits all members together; the deadline that kills a worker limits one. `clock` returns
    seconds.
    """

    def __init__(self, packed_bytes: int, clock: Callable[[], float] = time.thread_time) -> None:
        self._limit_s = MAX_CPU_S + packed_bytes / 1_000_000 * CPU_S_PER_PACKED_MB
        self._clock = clock
        self._end = clock() + self._limit_s

    def check(self) -> None:
        """Raise `InvalidArchive` if the budget is spent."""
        if self._clock() > self._end:
            raise InvalidArchive(
                f"reading it takes more than {self._limit_s:.0f} seconds of processor time; "
                "split it into several bundles"
            )


def special_file_error(name: MemberName, kind: str) -> InvalidArchive:
    """Return the error for a member that is a link, a device, a pipe or a socket.

    `kind` names it in the reason. Such a member is unsafe and has no use in a bundle.
    """
    return name.error(f"is a {kind} and not a file")


def truncated_error() -> InvalidArchive:
    """Return the error for an archive that ends too early."""
    return InvalidArchive("it is cut off: its end is missing")
