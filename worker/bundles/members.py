"""Member types, limits and the rejection error that all archive formats share. No I/O.

An archive is accepted or rejected as a whole: a single unsafe member rejects all of it. A member
that is not a user file is ignored, of any type and compression. An invalid CSV is a reject of
that user only.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from shared.csv_reader.decoding import excerpt
from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.source_keys import (
    NOT_UTF8_REASON,
    Bundle,
    IgnoredFile,
    UserFile,
    classify_member,
    explain_duplicate,
    rank_path,
)

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
_SURROGATE = re.compile("[\ud800-\udfff]")
_PACK_AS_ZIP = "pack the files as a zip"
_OTHER_FORMATS = (
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _PACK_AS_ZIP),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", _PACK_AS_ZIP),
    (re.compile(rb"\xfd7zXZ\0"), "packed by xz", "pack it by gzip (.tar.gz)"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "packed by bzip2", "pack it by gzip (.tar.gz)"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed by zstd", "pack it by gzip (.tar.gz)"),
    (re.compile(rb"\x1f\x8b"), "packed by gzip", "if it is a tar, rename it to .tar.gz"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", "rename it to .tar"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "rename it to .zip, if it is complete"),
    (re.compile(rb"MSCF"), "a cabinet archive", _PACK_AS_ZIP),
    (
        re.compile(rb"\s*<(?:!doctype\s+)?html", re.IGNORECASE),
        "a web page (HTML), such as a sign-in page or an error",
        "download the archive again",
    ),
)
"""Files under the name of an archive: first bytes, what they are, and the remedy."""
MAX_SIGNATURE_BYTES = 512

MAX_NAMED_PATH_LENGTH = 200
MAX_NAMED_MEMBERS = 20
"""Maximum number of ignored members that are named; further ones are only counted."""


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


class IgnoredMember(NamedTuple):
    """A member that is not read, for the record of the unpack; `path` is shortened."""

    number: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    `body` is empty if the member is not a user file. For a CSV above the size limit, `body` is cut
    to the first `MAX_CSV_BYTES` + 1 bytes.
    """

    name: MemberName
    file: UserFile | IgnoredFile
    body: bytes

    @property
    def path(self) -> str:
        """Return the path, which can be encoded as UTF-8."""
        return self.name.path


class SelectedMembers:
    """Selects, of several members with the same file name, the one that counts."""

    def __init__(self) -> None:
        self._selected: dict[str, MemberName] = {}

    def add(self, added: MemberName) -> tuple[MemberName, IgnoredFile] | None:
        """Add a user file. Return the member that does not count any more, and why.

        That may be the added member or an earlier one; None if there is no other. The member of the
        lowest `rank_path` counts. Of several with the same path it is the last one in the archive,
        because archivers append a newer version.
        """
        file_name = added.path.rpartition("/")[2]
        selected = self._selected.setdefault(file_name, added)
        if selected is added:
            return None
        added_rank = rank_path(added.path)
        selected_rank = rank_path(selected.path)
        if added_rank == selected_rank:
            is_better = added.number > selected.number
            reason = "a later member of the archive has the same path, and counts"
        else:
            is_better = added_rank < selected_rank
            reason = explain_duplicate((added if is_better else selected).path)
        if is_better:
            self._selected[file_name] = added
        return (selected if is_better else added), IgnoredFile(reason)


class IgnoredMembers:
    """The ignored members of an archive: `count` of them, some with their reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._named: tuple[list[IgnoredMember], list[IgnoredMember]] = [], []

    def add(self, name: MemberName, file: IgnoredFile) -> None:
        """Add a member that is not read."""
        self.count += 1
        named = self._named[file.is_junk]
        if len(named) < MAX_NAMED_MEMBERS:
            path = excerpt(name.path, MAX_NAMED_PATH_LENGTH)
            named.append(IgnoredMember(name.number, path, file.reason))

    def list_named(self) -> list[IgnoredMember]:
        """Return the first `MAX_NAMED_MEMBERS` members; junk is last, because it is expected."""
        others, junk = self._named
        return [*others, *junk][:MAX_NAMED_MEMBERS]


def check_member_path(name: MemberName) -> UserFile | IgnoredFile:
    """Return what kind of file the member at this path is. An absolute path is one in the archive.

    Raises `InvalidArchive` if the path leads out of the archive, or if the member is an archive
    itself.
    """
    if ".." in name.path.split("/"):
        raise name.error("has a path that leads out of the archive")
    file = classify_member(name.path)
    if isinstance(file, Bundle):
        raise name.error("is another archive; drop that one by itself")
    if file == IgnoredFile(NOT_UTF8_REASON):
        return IgnoredFile("its name is not UTF-8; pack it with UTF-8 names, or set ZIP_NAMES")
    return file


def is_decoded(path: str) -> bool:
    """Return whether the path has no surrogate escapes, which stand for undecodable bytes."""
    return path.isascii() or not _SURROGATE.search(path)


def legacy_name_error(name: MemberName, *, has_codec: bool) -> InvalidArchive:
    """Return the error for a user's file with a name that is not UTF-8.

    `has_codec`: the codec of ZIP_NAMES cannot decode it either.
    """
    if has_codec:
        return name.error(
            "has a name that is neither UTF-8 nor in the code page of ZIP_NAMES; "
            "zip it with UTF-8 names, or change ZIP_NAMES"
        )
    return name.error(
        "has a name in a legacy code page, which may be any: zip it with UTF-8 names, or set "
        "ZIP_NAMES (for example cp866)"
    )


def unknown_format_error(head: bytes, reason: str) -> InvalidArchive:
    """Return the error for a file that is not what its name says.

    `head` has its first `MAX_SIGNATURE_BYTES`. `reason` is used if they are of no known format.
    """
    for signature, description, remedy in _OTHER_FORMATS:
        if signature.match(head):
            return InvalidArchive(f"this is {description}; {remedy}")
    return InvalidArchive(reason)


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
    """Return the error for a user's file that is a link, a device, a pipe or a socket.

    `kind` names it in the reason.
    """
    return name.error(f"is a {kind} and not a file; pack the file itself, or leave it out")


def ignore_special_file(file: IgnoredFile, kind: str) -> IgnoredFile:
    """Return why a link, a device, a pipe or a socket is ignored that is no user's file."""
    return file if file.is_junk else IgnoredFile(f"it is a {kind} and not a file")


def truncated_error() -> InvalidArchive:
    """Return the error for an archive that ends too early."""
    return InvalidArchive("it is cut off: its end is missing")
