"""Index of one version of a bundle: one line per user, sorted by the UTF-8 bytes of the ID.

    <user_id> TAB [csv, image]   JSON; null for a part that is not in the bundle; no ID has a tab
    csv      [path, etag, first_name, last_name, birthts], or [path, etag, reason, line] if invalid
    image    [path, etag, extension]

A lookup bisects the bytes, as in output.csv, so an index needs little more memory than its bytes.
Most lookups find nothing, because a user is in few of many bundles. Therefore a `UserFilter` is
searched first, which stays in memory without the index. Pure.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from shared.formats.object_names import UNPACKED_FOLDER
from shared.formats.records import CsvVersion, InvalidCsv, Person, ValidCsv
from shared.formats.source_keys import IMAGE_EXTENSIONS, format_member_source

INDEX_HEADER = b"rowdrop bundle index 2\n"
OLD_INDEX_HEADER = b"rowdrop bundle index 1\n"
"""The header before reasons were free of quotes; it has the same length."""
OLD_REASON = "not valid; to see the reason, drop a bundle with this file again"
"""Replaces the reasons of an old index, which remains only if the archive is gone."""


class InvalidIndex(Exception):
    """The bytes are not an index; the message is the key of the bundle."""


@dataclass(frozen=True, slots=True)
class BundleImage:
    """An image in a bundle: path, MD5 of its bytes in hex, one of `IMAGE_EXTENSIONS`."""

    path: str
    etag: str
    extension: str


class BundleIndex:
    """The index of one version of the bundle `key`; immutable.

    `last_modified` is the LastModified of that version, in whole seconds since 1970 UTC.
    """

    __slots__ = ("body", "key", "last_modified")

    def __init__(self, key: str, last_modified: int, body: bytes) -> None:
        """Take the bytes as they are. Raises `InvalidIndex` if the header or the end is missing."""
        if not body.startswith((INDEX_HEADER, OLD_INDEX_HEADER)) or not body.endswith(b"\n"):
            raise InvalidIndex(key)
        self.key = key
        self.last_modified = last_modified
        self.body = body

    def find_csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """Return the parsed CSV of the user in this bundle, or None."""
        line = self._find_line(user_id)
        return self._decode_csv(line[0]) if line else None

    def find_image(self, user_id: str) -> BundleImage | None:
        """Return the image of the user in this bundle, or None."""
        line = self._find_line(user_id)
        return BundleImage(*line[1]) if line and line[1] else None

    def user_ids(self) -> Iterator[str]:
        """Return the IDs of all users in the bundle, in ascending order."""
        return (user_id.decode() for user_id, _ in self.iterate_lines())

    def iterate_users(
        self,
    ) -> Iterator[tuple[str, ValidCsv | InvalidCsv | None, BundleImage | None]]:
        """Yield each user in ascending order: ID, CSV or None, image or None."""
        for user_id, line in self.iterate_lines():
            csv, image = json.loads(line)
            yield user_id.decode(), self._decode_csv(csv), BundleImage(*image) if image else None

    def _decode_csv(self, fields: list[Any] | None) -> ValidCsv | InvalidCsv | None:
        if fields is None:
            return None
        path, etag, *values = fields
        version = CsvVersion(format_member_source(self.key, path), etag, self.last_modified)
        # A valid CSV has three fields here, an invalid one two: the reason and the line.
        if len(values) == 3:
            return ValidCsv(version, Person(*values))
        reason, line = values
        has_quotes = self.body.startswith(OLD_INDEX_HEADER)
        return InvalidCsv(version, OLD_REASON if has_quotes else reason, line)

    def iterate_lines(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the encoded ID and the JSON of each user."""
        start = len(INDEX_HEADER)
        while start < len(self.body):
            end = self.body.index(b"\n", start)
            user_id, _, line = self.body[start:end].partition(b"\t")
            yield user_id, line
            start = end + 1

    def _find_line(self, user_id: str) -> list[Any] | None:
        encoded_id = user_id.encode()
        body = self.body
        low = len(INDEX_HEADER)
        high = len(self.body)
        # `low` and `high` are starts of lines.
        while low < high:
            middle = (low + high) // 2
            start = body.rfind(b"\n", low, middle) + 1 or low
            end = body.index(b"\n", middle) + 1
            tab = body.index(b"\t", start)
            candidate = body[start:tab]
            if candidate == encoded_id:
                line: list[Any] = json.loads(body[tab:end])
                return line
            low, high = (end, high) if candidate < encoded_id else (low, start)
        return None


class UserFilter:
    """Says whether a bundle may have a CSV, or an image, of a user; rarely of one that it has not.

    It takes 4 bytes for each file. The checksums are those of `hash`, which differ in each process,
    so no bundle can contain other IDs with the checksums of a user.
    """

    __slots__ = ("_csvs", "_images")

    def __init__(self, index: BundleIndex) -> None:
        csvs = []
        images = []
        for user_id, line in index.iterate_lines():
            checksum = _compute_checksum(user_id)
            if not line.startswith(b"[null,"):
                csvs.append(checksum)
            if not line.endswith(b",null]"):
                images.append(checksum)
        self._csvs = array("I", sorted(csvs))
        self._images = array("I", sorted(images))

    def may_have_csv(self, user_id: str) -> bool:
        """Return False if the bundle has no CSV of the user."""
        return _contains(self._csvs, user_id)

    def may_have_image(self, user_id: str) -> bool:
        """Return False if the bundle has no image of the user."""
        return _contains(self._images, user_id)


def _compute_checksum(encoded_id: bytes) -> int:
    return hash(encoded_id) & 0xFFFF_FFFF


def _contains(checksums: "array[int]", user_id: str) -> bool:
    checksum = _compute_checksum(user_id.encode())
    position = bisect_left(checksums, checksum)
    return position < len(checksums) and checksums[position] == checksum


class IndexBuilder:
    """Collects the lines of an index.

    Of several files with the same name, the last one wins: see `members.SelectedMembers`. If a user
    has images with several extensions, the first one in `IMAGE_EXTENSIONS` wins.
    """

    def __init__(self) -> None:
        self._csvs: dict[str, str] = {}
        self._images: dict[str, tuple[int, str]] = {}

    def add_csv(self, user_id: str, path: str, csv: ValidCsv | InvalidCsv) -> None:
        """Add the parsed CSV of a user, replacing an earlier one."""
        match csv:
            case ValidCsv(version, person):
                values: list[Any] = [person.first_name, person.last_name, person.birthts]
            case InvalidCsv(version, reason, line):
                values = [reason, line]
        self._csvs[user_id] = _encode_json([path, version.etag, *values])

    def add_image(self, user_id: str, image: BundleImage) -> bool:
        """Add an image of a user; return False if the user has an image of higher rank."""
        rank = IMAGE_EXTENSIONS.index(image.extension)
        if user_id in self._images and self._images[user_id][0] < rank:
            return False
        self._images[user_id] = rank, _encode_json([image.path, image.etag, image.extension])
        return True

    def user_ids(self) -> Collection[str]:
        """Return the IDs of all users that were added."""
        return self._csvs.keys() | self._images.keys()

    def encode(self) -> bytes:
        """Return the bytes of the index, as `BundleIndex` reads them."""
        lines = [INDEX_HEADER]
        # `BundleIndex` bisects the bytes, so the order must be that of the encoded IDs.
        for user_id in sorted(self.user_ids(), key=str.encode):
            csv = self._csvs.get(user_id, "null")
            image = self._images.get(user_id, (0, "null"))[1]
            lines.append(f"{user_id}\t[{csv},{image}]\n".encode())
        return b"".join(lines)


def _encode_json(fields: list[Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """An image of a user in a bundle.

    `key` is its unpacked object in the output bucket, with this ETag. `source` is its name in
    messages: `<bundle_key>#<path>`.
    """

    bundle_key: str
    key: str
    source: str
    etag: str
    extension: str


def make_unpacked_image_key(digest: str, user_id: str, image: BundleImage) -> str:
    """Return the key in the output bucket to which an image of a bundle is unpacked."""
    return f"{UNPACKED_FOLDER}/{digest}/{user_id}.{image.extension}"


def make_index_key(digest: str) -> str:
    """Return the key of a bundle's index; it cannot collide with the key of an unpacked image."""
    return f"{UNPACKED_FOLDER}/{digest}/index"


def locate_unpacked_image(
    bundle_key: str, digest: str, user_id: str, image: BundleImage
) -> UnpackedImage:
    """Return where an image of a bundle is: its unpacked key, and its source for people.

    `digest` identifies the version of the bundle, see `catalog.BundleRules`. Makes no
    request.
    """
    key = make_unpacked_image_key(digest, user_id, image)
    source = format_member_source(bundle_key, image.path)
    return UnpackedImage(bundle_key, key, source, image.etag, image.extension)
