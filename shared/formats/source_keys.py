"""Classify the keys of the source bucket: user file, bundle, or ignored. Pure.

A bundle is an archive that holds many users' files. In Redis, bundles are stored beside users,
under an ID that no user can have because it contains a slash: see `make_bundle_id`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg")
"""Accepted image extensions, in lower case, in order of precedence.

If two images of a user have the same LastModified, the extension that comes first here wins.
"""

USER_FILE_EXTENSIONS = frozenset({"csv", *IMAGE_EXTENSIONS})
BUNDLE_EXTENSIONS = ("zip", "tar", "tar.gz", "tgz")

MAX_FILE_NAME_BYTES = 255
"""Maximum length in bytes of one path component, in file systems and therefore in MinIO.

For a longer name MinIO returns another error than `NoSuchKey`.
"""

MAX_KEY_BYTES = 1024
"""Maximum length of an S3 key in bytes."""

NOT_UTF8_REASON = "its name is not UTF-8; rename it"

_COMPANION_FILES = {
    "._": "macOS writes such a file beside another one",
    "~$": "Office writes such a file while a document is open",
    ".~lock": "LibreOffice writes such a file while a document is open",
}
"""Files that programs write beside a user's file, by the beginning of the name."""
_COMPANION_PREFIXES = tuple(_COMPANION_FILES)

_JUNK_PREFIXES = (".", "~", "#", "@", "$")
_JUNK_NAMES = frozenset({"lost+found", "__pycache__", "node_modules"})
_CASELESS_JUNK_NAMES = {
    name.lower(): name for name in ("System Volume Information", "__MACOSX", "Thumbs.db")
}
"""Names in archives and folders that hold no users' files.

macOS and Windows, which write the last ones, do not distinguish upper and lower case.
"""

_SPARK_PART = re.compile(r"part-\d{5}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

# The object-store client cannot address a name that contains control characters. XML cannot contain
# the noncharacters, so S3 can neither list nor delete such a name together with others. U+0085 and
# U+2028 are allowed in a user ID: RFC 4180 does not treat them as line breaks.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_NONCHARACTER = re.compile("[\ufffe\uffff]")
_UNUSABLE_CHARACTER = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")
_UNUSABLE_CHARACTER_OR_SLASH = re.compile("[\x00-\x1f\x7f\ufffe\uffff/]")
# MinIO takes a backslash for a separator, ignores blanks around a component, and refuses each
# request with such a path.
_DOT_COMPONENT = re.compile(r"(?:^|[/\\])\s*\.\.?\s*(?:[/\\]|$)")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

MAX_SHOWN_PATH_LENGTH = 1_000
"""Maximum characters of a path in rejects and reasons: that of a member may have a million."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """A user file. `user_id` is the key without its extension, unchanged.

    `extension` is one of `USER_FILE_EXTENSIONS`.
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
class IgnoredFile:
    """A key or member that is not read. `reason` is shown to the person who dropped the file.

    `is_junk`: a program or the system wrote it, so it is not meant to be read.
    """

    reason: str
    is_junk: bool = False


def classify_key(key: str) -> UserFile | Bundle | IgnoredFile:
    """Return what kind of file a key is, or why it is ignored. Never raises."""
    user_id, _, extension = key.rpartition(".")
    if (
        not _UNUSABLE_CHARACTER_OR_SLASH.search(key)
        and not key.startswith(_COMPANION_PREFIXES)
        and not _has_dot_component(key)
    ):
        if user_id and extension in USER_FILE_EXTENSIONS:
            return UserFile(user_id, extension)
        if _has_bundle_extension(key):
            return Bundle(key)
    return IgnoredFile(_explain_ignored_key(key, user_id, extension))


def explain_unusable_name(key: str) -> str | None:
    """Return why an upload under this key must be refused, or None if the file would be read."""
    if len(key.encode()) > MAX_FILE_NAME_BYTES:
        return (
            f"its name is longer than {MAX_FILE_NAME_BYTES} bytes, "
            "which file systems do not support"
        )
    classified = classify_key(key)
    return classified.reason if isinstance(classified, IgnoredFile) else None


def is_valid_key(key: str) -> bool:
    """Return whether an object under this key can exist and be addressed.

    A request with any other key fails with an error that is not `NoSuchKey`, and would look like an
    outage. Not every valid key is read: see `classify_key`.
    """
    if len(key.encode()) > MAX_KEY_BYTES or _UNUSABLE_CHARACTER.search(key):
        return False
    # MinIO stores a key as a path, so it refuses empty, "." and ".." components.
    parts = key.split("/")
    if "" in parts or _has_dot_component(key):
        return False
    return all(len(part.encode()) <= MAX_FILE_NAME_BYTES for part in parts)


def is_listable_prefix(prefix: str) -> bool:
    """Return whether LIST accepts this value as a prefix or as a start position.

    MinIO refuses a few values although keys may begin with them.
    """
    return "\0" not in prefix and "//" not in prefix and not _has_dot_component(prefix)


def classify_member(path: str) -> UserFile | Bundle | IgnoredFile:
    """Classify a file of an archive or of a folder by its path.

    Its name counts, unless a component of the path is junk. Surrogate escapes stand for bytes of
    the name that could not be decoded.
    """
    reason = explain_junk(path)
    if reason:
        return IgnoredFile(reason, is_junk=True)
    name = path.rpartition("/")[2]
    try:
        is_too_long = len(name.encode()) > MAX_FILE_NAME_BYTES
    except UnicodeEncodeError:
        return IgnoredFile(NOT_UTF8_REASON)
    if is_too_long:
        return IgnoredFile(f"its name is longer than {MAX_FILE_NAME_BYTES} bytes")
    return classify_key(name)


def explain_junk(path: str) -> str | None:
    """Return why a file or folder at this path holds no users' files, or None.

    This concerns paths in archives and in folders that are loaded, and no keys of the bucket. The
    path may be absolute.
    """
    for part in split_path(path):
        if part.startswith(_JUNK_PREFIXES):
            return (
                f"its name or that of its folder begins with {part[0]!r}, like those of hidden "
                "files, trash and snapshots"
            )
        name = part if part in _JUNK_NAMES else _CASELESS_JUNK_NAMES.get(part.lower())
        if name:
            return f"{name} is not a user's, but written by a program or the system"
        if _SPARK_PART.match(part):
            return "Spark wrote it as a part of a table; rename it to the user's ID"
    return None


def split_path(path: str) -> list[str]:
    """Return the components of a path, without those that change nothing: "", and "."."""
    return [part for part in path.split("/") if part not in {"", "."}]


def rank_path(path: str) -> tuple[int, str]:
    """Return the rank of a path among those with the same file name: the lowest one counts.

    The file that is nearest to the top counts, then the first by path (by code points).
    """
    parts = split_path(path)
    return len(parts), "/".join(parts)


def make_printable_path(path: str) -> str:
    """Return a path on one line that can be encoded as UTF-8.

    It replaces control characters, which names of folders may contain, and surrogate escapes, which
    stand for bytes that could not be decoded.
    """
    return path if path.isprintable() else _UNPRINTABLE.sub("\ufffd", path)


def _shorten_path(path: str) -> str:
    """Return a printable path of at most `MAX_SHOWN_PATH_LENGTH` characters; the end is kept."""
    shown = make_printable_path(path)
    if len(shown) <= MAX_SHOWN_PATH_LENGTH:
        return shown
    return f"…{shown[1 - MAX_SHOWN_PATH_LENGTH :]}"


def explain_duplicate(path: str) -> str:
    """Return why a file is not read if the one at `path` has the same name and counts."""
    shown = _shorten_path(path)
    return f"it is a duplicate of {shown}, which is nearer to the top or the first by path"


def _has_dot_component(path: str) -> bool:
    """Return whether MinIO takes a component of the path for "." or ".."."""
    return _DOT_COMPONENT.search(path) is not None


def _has_bundle_extension(key: str) -> bool:
    return any(
        key.endswith(f".{extension}") and len(key) > len(extension) + 1
        for extension in BUNDLE_EXTENSIONS
    )


def _explain_ignored_key(key: str, user_id: str, extension: str) -> str:
    if _CONTROL_CHARACTER.search(key):
        return "its name contains a control character, such as a tab or a line break"
    if _NONCHARACTER.search(key):
        return "its name contains U+FFFE or U+FFFF, which are no characters; rename it"
    if "/" not in key and _has_dot_component(key):
        return "its name has '.' or '..' between backslashes, which MinIO refuses; rename it"
    if "/" in key:
        return "it is in a folder; only files at the top level of the bucket are read"
    for prefix, origin in _COMPANION_FILES.items():
        if key.startswith(prefix):
            return f"its name begins with {prefix}: {origin}; delete it"
    for word, stripped in (("blank", key.rstrip()), ("dot", key.rstrip("."))):
        if stripped != key and not isinstance(classify_key(stripped), IgnoredFile):
            return f"its name ends with a {word}; rename it to {stripped}"
    if key != key.lower() and _has_bundle_extension(key.lower()):
        return f"extensions are written in lower case; rename it to {_lowercase_extension(key)}"
    if "." not in key or extension.lower() not in USER_FILE_EXTENSIONS:
        image_extensions = ", .".join(IMAGE_EXTENSIONS)
        bundle_extensions = ", .".join(BUNDLE_EXTENSIONS)
        return (
            f"it is neither a .csv nor an image (.{image_extensions}) "
            f"nor a bundle of them (.{bundle_extensions})"
        )
    if not user_id:
        return f"there is no user id before .{extension}"
    return f"extensions are written in lower case; rename it to {user_id}.{extension.lower()}"


def _lowercase_extension(key: str) -> str:
    lower_key = key.lower()
    length = max(len(end) for end in BUNDLE_EXTENSIONS if lower_key.endswith(f".{end}"))
    return key[:-length] + key[-length:].lower()


def make_bundle_id(key: str) -> str:
    """Return the ID of a bundle where users are listed: as dirty, in messages, in rejects."""
    return f"/{key}"


def parse_bundle_id(user_id: str) -> str | None:
    """Return the key of the bundle with this ID, or None if the ID is a user's."""
    return user_id[1:] if user_id.startswith("/") else None


def format_member_source(key: str, path: str) -> str:
    """Return the name of a bundle's member as shown in rejects and in the manifest."""
    return f"{key}#{_shorten_path(path)}"


def parse_member_bundle(source: str) -> str | None:
    """Return the bundle of a member with this name, see `format_member_source`; None for a file.

    A key may contain a number sign, too: the shortest beginning that names a bundle counts.
    """
    parts = source.split("#")
    beginnings = ("#".join(parts[:count]) for count in range(1, len(parts)))
    return next(filter(_has_bundle_extension, beginnings), None)


def make_file_path(key: str) -> str:
    """Return the address of a file of the source bucket in the API."""
    return f"/files/{quote(key)}"


def make_csv_key(user_id: str) -> str:
    """Return the key of a user's own CSV."""
    return f"{user_id}.csv"


def make_image_key(user_id: str, extension: str) -> str:
    """Return the key of a user's own image. `extension` is one of `IMAGE_EXTENSIONS`."""
    return f"{user_id}.{extension}"


def select_newest_image(candidates: Iterable[tuple[str, int]]) -> str | None:
    """Return the key of a user's newest image, or None if there is no candidate.

    `candidates` are pairs of key and LastModified in whole seconds. Milliseconds must not be used:
    HEAD returns whole seconds only, so a sweep (LIST) and a single read would choose differently.
    """
    newest = max(candidates, key=_rank_image, default=None)
    return newest[0] if newest else None


def _rank_image(candidate: tuple[str, int]) -> tuple[int, int]:
    key, last_modified = candidate
    # Negative index: of equally old images, the first extension in IMAGE_EXTENSIONS is the maximum.
    return last_modified, -IMAGE_EXTENSIONS.index(key.rpartition(".")[2])


PROBE_PREFIX = ".rowdrop-probe-"
"""Prefix of the keys that `rowdrop init` writes to test event delivery.

The listener ignores them.
"""

SAMPLE_PREFIX = "sample-"
"""Prefix of the keys of the sample (`rowdrop sample`)."""
