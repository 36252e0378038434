"""Classify the keys of the source bucket: user file, bundle, or ignored. Pure.

A bundle is an archive that holds many users' files. In Redis, bundles are stored beside users,
under an ID that no user can have because it contains a slash: see `bundle_id`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg")
"""Accepted image extensions, in lower case, in order of precedence.

If two images of a user have the same LastModified, the extension that comes first here wins.
"""

EXTENSIONS = frozenset({"csv", *IMAGE_EXTENSIONS})
BUNDLE_EXTENSIONS = ("zip", "tar", "tar.gz", "tgz")

LONGEST_NAME = 255
"""Maximum length in bytes of one path component, in file systems and therefore in MinIO.

For a longer name MinIO returns another error than `NoSuchKey`.
"""

_LITTER = frozenset({".DS_Store", "Thumbs.db"})
"""Names of files that file managers create beside the user's files."""

LONGEST_KEY = 1024
"""Maximum length of an S3 key in bytes."""

# The object-store client cannot address a name that contains control characters. U+0085 and U+2028
# are allowed in a user ID: RFC 4180 does not treat them as line breaks.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_OR_FOLDER = re.compile(r"[\x00-\x1f\x7f/]")


@dataclass(frozen=True, slots=True)
class UserFile:
    """A user file. `user_id` is the key without its extension, unchanged.

    `extension` is one of `EXTENSIONS`.
    """

    user_id: str
    extension: str

    @property
    def is_csv(self) -> bool:
        """Whether the file is the user's CSV; otherwise it is an image."""
        return self.extension == "csv"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive of user files, stored under `key`."""

    key: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that is not read. `reason` is shown to the person who dropped the file."""

    reason: str


def classify(key: str) -> UserFile | Bundle | Ignored:
    """Return what kind of file a key is, or why it is ignored. Never raises."""
    user_id, _, extension = key.rpartition(".")
    if user_id and extension in EXTENSIONS and not _CONTROL_OR_FOLDER.search(key):
        return UserFile(user_id, extension)
    if _is_bundle(key) and not _CONTROL_OR_FOLDER.search(key):
        return Bundle(key)
    return Ignored(_why_ignored(key, user_id, extension))


def refusal_of(key: str) -> str | None:
    """Return why an upload under this key must be refused, or None if the file would be read."""
    if len(key.encode()) > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes, which file systems do not support"
    found = classify(key)
    return found.reason if isinstance(found, Ignored) else None


def is_possible(key: str) -> bool:
    """Return whether an object under this key can exist and be addressed.

    For any other key the server responds with an error.
    """
    # MinIO stores a key as a path, so it refuses empty, "." and ".." components.
    parts = key.split("/")
    is_short = len(key.encode()) <= LONGEST_KEY and all(len(part.encode()) <= LONGEST_NAME for part in parts)
    return is_short and not _CONTROL.search(key) and not {"", ".", ".."}.intersection(parts)


def can_be_looked_for(beginning: str) -> bool:
    """Return whether LIST accepts this value as a prefix or as a start position.

    MinIO refuses a few values although keys may begin with them.
    """
    parts = beginning.split("/")
    return "\0" not in beginning and "//" not in beginning and not {".", ".."}.intersection(parts)


def classify_member(path: str) -> UserFile | Bundle | Ignored | None:
    """Classify a member of an archive by the last component of its path.

    Returns None for files that file managers add on their own, such as `__MACOSX/` or `Thumbs.db`.
    """
    *folders, name = path.split("/")
    if "__MACOSX" in folders or name.startswith("._") or name in _LITTER:
        return None
    try:
        too_long = len(name.encode()) > LONGEST_NAME
    except UnicodeEncodeError:  # surrogate escapes stand for bytes that are not UTF-8
        return Ignored("its name is not UTF-8")
    return Ignored(f"its name is longer than {LONGEST_NAME} bytes") if too_long else classify(name)


def _is_bundle(key: str) -> bool:
    return any(key.endswith(f".{extension}") and len(key) > len(extension) + 1 for extension in BUNDLE_EXTENSIONS)


def _why_ignored(key: str, user_id: str, extension: str) -> str:
    if _CONTROL.search(key):
        return "its name contains a control character, such as a tab or a line break"
    if "/" in key:
        return "it is in a folder; only files at the top level of the bucket are read"
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
    """Return the ID of a bundle where users are listed: in `dirty`, in messages, in rejects."""
    return f"/{key}"


def bundle_key(user_id: str) -> str | None:
    """Return the key of the bundle with this ID, or None if the ID is a user's."""
    return user_id[1:] if user_id.startswith("/") else None


def member_source(key: str, path: str) -> str:
    """Return the name of a bundle's member as shown in rejects and in the manifest."""
    return f"{key}#{path}"


def csv_key(user_id: str) -> str:
    """Return the key of a user's own CSV."""
    return f"{user_id}.csv"


def image_key(user_id: str, extension: str) -> str:
    """Return the key of a user's own image. `extension` is one of `IMAGE_EXTENSIONS`."""
    return f"{user_id}.{extension}"


def newest_image(candidates: Iterable[tuple[str, int]]) -> str | None:
    """Return the key of a user's newest image, or None if there is no candidate.

    `candidates` are pairs of key and LastModified in whole seconds. Milliseconds must not be used:
    HEAD returns whole seconds only, so a sweep (LIST) and a single read would choose differently.
    """
    newest = max(candidates, key=_by_age_then_extension, default=None)
    return newest[0] if newest else None


def _by_age_then_extension(candidate: tuple[str, int]) -> tuple[int, int]:
    key, last_modified = candidate
    # Negative index: of equally old images, the first extension in IMAGE_EXTENSIONS is the maximum.
    return last_modified, -IMAGE_EXTENSIONS.index(key.rpartition(".")[2])
