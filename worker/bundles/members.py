"""Member types, limits and the rejection error that all archive formats share. Pure.

An archive is accepted or rejected as a whole: a single unsafe member rejects all of it. A member
that is not a user file is ignored. An invalid CSV is a reject of that user only.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from shared.formats.source_keys import Bundle, IgnoredFile, UserFile, classify_member
from shared.formats.user_csv import MAX_CSV_BYTES

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


def special_file_error(name: MemberName, kind: str) -> InvalidArchive:
    """Return the error for a member that is a link, a device, a pipe or a socket.

    `kind` names it in the reason. Such a member is unsafe and has no use in a bundle.
    """
    return name.error(f"is a {kind} and not a file")


def truncated_error() -> InvalidArchive:
    """Return the error for an archive that ends too early."""
    return InvalidArchive("it is cut off: its end is missing")
