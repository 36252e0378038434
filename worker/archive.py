"""What the kinds of archives have in common: members, limits, and the one way to say no.  Pure.

An archive is judged as a whole: one member that cannot be trusted, and nothing of it is used.  What is only not a
user's file, or a user's file that is no good, concerns that member alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.keys import Bundle, Ignored, UserFile, classify_member
from worker.user_csv import MAX_CSV_BYTES, excerpt

MOST_MEMBERS = 250_000
MOST_BYTES = 50_000_000_000
"""Of all members, unpacked."""
MOST_IMAGE_BYTES = 100_000_000
"""Of one image: it is held in memory as a whole."""
MOST_RATIO, ANY_RATIO_BYTES = 100, 100_000_000
"""An archive may unpack to a hundred times its size; a small one, of many like files, to 100 MB in any case."""

_DRIVE = re.compile(r"[A-Za-z]:")


class InvalidArchive(Exception):
    """An archive that cannot be used; `reason` is written for the person who dropped it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.  `body` is empty if it is nobody's; of a CSV that is too large it is the beginning."""

    path: str
    file: UserFile | Ignored
    body: bytes


class Archive(Protocol):
    """An archive that can be gone through once."""

    total: int | None
    """How many members there are; None if only its end tells."""

    def members(self) -> Iterator[Member]:
        """Its files, without folders and what file managers leave behind.  Raises `InvalidArchive` at any of them."""


def file_of(path: str) -> UserFile | Ignored | None:
    """Whose file the member at this path is; None for one to be passed over.  Raises `InvalidArchive`."""
    if path.startswith("/") or _DRIVE.match(path) or ".." in path.split("/"):
        raise InvalidArchive(f"the path of a member leads out of the archive: '{excerpt(path)}'")
    file = classify_member(path)
    if isinstance(file, Bundle):
        raise InvalidArchive(f"it contains another archive, '{excerpt(path)}'; drop that one by itself")
    return file


def most_kept(path: str, file: UserFile | Ignored, size: int) -> int:
    """How many bytes of a member of `size` bytes are worth keeping.  Raises `InvalidArchive`."""
    if isinstance(file, Ignored):
        return 0
    if file.is_csv:
        return MAX_CSV_BYTES + 1
    if size > MOST_IMAGE_BYTES:
        raise InvalidArchive(f"an image is larger than {MOST_IMAGE_BYTES:,} bytes: '{excerpt(path)}'")
    return size


def check_size(unpacked: int, packed: int) -> None:
    """Raises `InvalidArchive` if so few bytes may not become so many."""
    if unpacked > MOST_BYTES:
        raise InvalidArchive(f"it unpacks to more than {MOST_BYTES:,} bytes")
    if unpacked > max(ANY_RATIO_BYTES, MOST_RATIO * packed):
        raise InvalidArchive(f"it unpacks to more than {MOST_RATIO} times its size")


def check_count(members: int) -> None:
    """Raises `InvalidArchive` if these are too many."""
    if members > MOST_MEMBERS:
        raise InvalidArchive(f"it has more than {MOST_MEMBERS:,} members")


def no_file(path: str, kind: str) -> InvalidArchive:
    """A member is a link or a device, which nobody who drops files can mean."""
    return InvalidArchive(f"a member is a {kind} and not a file: '{excerpt(path)}'")


def cut_off() -> InvalidArchive:
    """The archive ends too early."""
    return InvalidArchive("it is cut off: its end is missing")
