"""Which user, and which part of that user's data, a key of the source bucket is.  Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg")
"""Images that count, in lower case.  Of two images as new as each other the first in this order wins."""

EXTENSIONS = frozenset({"csv", *IMAGE_EXTENSIONS})

LONGEST_NAME = 255
"""Bytes of a name that a disk can hold, and so MinIO."""
LONGEST_KEY = 1024
"""Bytes of a key, by S3."""

# An object-store client cannot address a name with control characters.  U+0085 or U+2028 end no line by RFC 4180, so
# they may stand in a user id as any other character.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_OR_FOLDER = re.compile(r"[\x00-\x1f\x7f/]")


@dataclass(frozen=True, slots=True)
class UserFile:
    """A user's file.  `user_id` is the key without the extension, exactly as written; `extension` one of ours."""

    user_id: str
    extension: str

    @property
    def is_csv(self) -> bool:
        """Whether it is the user's data; else it is an image."""
        return self.extension == "csv"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that is no user's file; `reason` is written for the person who dropped it."""

    reason: str


def classify(key: str) -> UserFile | Ignored:
    """Tell whose file this is, or why it is nobody's.  Any string is answered, none raises."""
    user_id, _, extension = key.rpartition(".")
    if user_id and extension in EXTENSIONS and not _CONTROL_OR_FOLDER.search(key):
        return UserFile(user_id, extension)
    return Ignored(_why_ignored(key, user_id, extension))


def refusal_of(key: str) -> str | None:
    """Why a file of this name must not be put into the bucket: it would not be read.  None if it would."""
    if len(key.encode()) > LONGEST_NAME:
        return f"its name has more than {LONGEST_NAME} bytes, which no disk can hold"
    found = classify(key)
    return found.reason if isinstance(found, Ignored) else None


def is_possible(key: str) -> bool:
    """Whether an object of this name can be there and be addressed; a server's answer to others is an error."""
    parts = key.split("/")
    is_short = len(key.encode()) <= LONGEST_KEY and all(len(part.encode()) <= LONGEST_NAME for part in parts)
    return is_short and not _CONTROL.search(key) and not {"", ".", ".."}.intersection(parts)


def can_be_looked_for(beginning: str) -> bool:
    """Whether a server lists what begins so, or comes after it: MinIO refuses a few, though keys may begin so."""
    parts = beginning.split("/")
    return "\0" not in beginning and "//" not in beginning and not {".", ".."}.intersection(parts)


def _why_ignored(key: str, user_id: str, extension: str) -> str:
    if _CONTROL.search(key):
        return "its name contains a control character, such as a tab or a line break"
    if "/" in key:
        return "it lies in a folder; only files at the top of the bucket are read"
    if "." not in key or extension.lower() not in EXTENSIONS:
        return f"it is neither a .csv nor an image (.{', .'.join(IMAGE_EXTENSIONS)})"
    if not user_id:
        return f"there is no user id before .{extension}"
    return f"extensions are written in lower case; rename it to {user_id}.{extension.lower()}"


def csv_key(user_id: str) -> str:
    """The key of a user's own CSV."""
    return f"{user_id}.csv"


def image_key(user_id: str, extension: str) -> str:
    """The key of a user's own image with one of `IMAGE_EXTENSIONS`."""
    return f"{user_id}.{extension}"


def newest_image(candidates: Iterable[tuple[str, int]]) -> str | None:
    """The key of the image that counts, among one user's (key, LastModified in whole seconds); None without any.

    Whole seconds, because HEAD tells no more: by LIST's milliseconds a sweep and a single look would disagree.
    """
    newest = max(candidates, key=_by_age_then_extension, default=None)
    return newest[0] if newest else None


def _by_age_then_extension(candidate: tuple[str, int]) -> tuple[int, int]:
    key, last_modified = candidate
    return last_modified, -IMAGE_EXTENSIONS.index(key.rpartition(".")[2])
