"""Which user, and which part of that user's data, a key of the source bucket is; or that it is a bundle.  Pure.

A bundle is an archive whose members are users' files.  In the to-do list it stands beside the users by an id that no
user can have, as it contains a slash: `bundle_id`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg")
"""Images that count, in lower case.  Of two images as new as each other the first in this order wins."""

EXTENSIONS = frozenset({"csv", *IMAGE_EXTENSIONS})
BUNDLE_EXTENSIONS = ("zip", "tar", "tar.gz", "tgz")

LONGEST_NAME = 255
"""Bytes of a name that a disk can hold, and so MinIO.  It does not say of a longer one that there is no such key."""

_LITTER = frozenset({".DS_Store", "Thumbs.db"})
"""What file managers leave beside people's files."""

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
class Bundle:
    """An archive of users' files, under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that is no user's file; `reason` is written for the person who dropped it."""

    reason: str


def classify(key: str) -> UserFile | Bundle | Ignored:
    """Tell whose file this is, or why it is nobody's.  Any string is answered, none raises."""
    user_id, _, extension = key.rpartition(".")
    if user_id and extension in EXTENSIONS and not _CONTROL_OR_FOLDER.search(key):
        return UserFile(user_id, extension)
    if _is_bundle(key) and not _CONTROL_OR_FOLDER.search(key):
        return Bundle(key)
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


def classify_member(path: str) -> UserFile | Bundle | Ignored | None:
    """The same for a file in an archive, by the last part of its path; None for what file managers leave behind."""
    *folders, name = path.split("/")
    if "__MACOSX" in folders or name.startswith("._") or name in _LITTER:
        return None
    try:
        too_long = len(name.encode()) > LONGEST_NAME
    except UnicodeEncodeError:
        return Ignored("its name is not UTF-8")
    return Ignored(f"its name is longer than {LONGEST_NAME} bytes") if too_long else classify(name)


def _is_bundle(key: str) -> bool:
    return any(key.endswith(f".{extension}") and len(key) > len(extension) + 1 for extension in BUNDLE_EXTENSIONS)


def _why_ignored(key: str, user_id: str, extension: str) -> str:
    if _CONTROL.search(key):
        return "its name contains a control character, such as a tab or a line break"
    if "/" in key:
        return "it lies in a folder; only files at the top of the bucket are read"
    if key != key.lower() and _is_bundle(key.lower()):
        return f"extensions are written in lower case; rename it to {_with_lower_extension(key)}"
    if "." not in key or extension.lower() not in EXTENSIONS:
        images, bundles = ", .".join(IMAGE_EXTENSIONS), ", .".join(BUNDLE_EXTENSIONS)
        return f"it is neither a .csv nor an image (.{images}) nor a bundle of them (.{bundles})"
    if not user_id:
        return f"there is no user id before .{extension}"
    return f"extensions are written in lower case; rename it to {user_id}.{extension.lower()}"


def _with_lower_extension(key: str) -> str:
    length = max(len(found) for found in BUNDLE_EXTENSIONS if key.lower().endswith(f".{found}"))
    return key[:-length] + key[-length:].lower()


def bundle_id(key: str) -> str:
    """What a bundle is called among users: in `dirty`, in messages, in rejects."""
    return f"/{key}"


def bundle_key(user_id: str) -> str | None:
    """The key of the bundle that is called so among users; None if it is a user."""
    return user_id[1:] if user_id.startswith("/") else None


def member_source(key: str, path: str) -> str:
    """How a member of a bundle is named to people: in rejects and in the manifest."""
    return f"{key}#{path}"


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
