"""Index of one version of a bundle: one line per user, sorted by the UTF-8 bytes of the ID.

    <user_id> TAB [csv, image]   JSON; null for a part that is not in the bundle; no ID has a tab
    csv      [path, etag, first_name, last_name, birthts], or [path, etag, reason, line] if invalid
    image    [path, etag, extension]

A lookup bisects the bytes, as in output.csv, so an index needs little more memory than its bytes.
Most lookups find nothing, because a user is in few of many bundles. Therefore a cached array of the
CRC-32 checksums of all IDs is searched first. Pure.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from shared.keys import IMAGE_EXTENSIONS, member_source
from shared.records import CsvVersion, InvalidCsv, Person, ValidCsv

HEADER = b"rowdrop bundle index 1\n"


class InvalidIndex(Exception):
    """The bytes are not an index; the message is the key of the bundle."""


@dataclass(frozen=True, slots=True)
class MemberImage:
    """An image in a bundle: path, MD5 of its bytes in hex, one of `IMAGE_EXTENSIONS`."""

    path: str
    etag: str
    extension: str


class BundleIndex:
    """The index of one version of the bundle `key`; immutable.

    `since` is the LastModified of that version, in whole seconds since 1970 UTC.
    """

    __slots__ = ("_checksums", "body", "key", "since")

    def __init__(self, key: str, since: int, body: bytes) -> None:
        """Take the bytes as they are. Raises `InvalidIndex` if the header or the end is missing."""
        if not body.startswith(HEADER) or not body.endswith(b"\n"):
            raise InvalidIndex(key)
        self.key, self.since, self.body = key, since, body
        self._checksums: array[int] | None = None

    def csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """Return the parsed CSV of the user in this bundle, or None."""
        line = self._line(user_id)
        return self._csv(line[0]) if line else None

    def image(self, user_id: str) -> MemberImage | None:
        """Return the image of the user in this bundle, or None."""
        line = self._line(user_id)
        return MemberImage(*line[1]) if line and line[1] else None

    def users(self) -> Iterator[str]:
        """Return the IDs of all users in the bundle, in ascending order."""
        return (user_id.decode() for user_id, _ in self._lines())

    def entries(self) -> Iterator[tuple[str, ValidCsv | InvalidCsv | None, MemberImage | None]]:
        """Yield each user in ascending order: ID, CSV or None, image or None."""
        for user_id, line in self._lines():
            csv, image = json.loads(line)
            yield user_id.decode(), self._csv(csv), MemberImage(*image) if image else None

    def _csv(self, fields: list[Any] | None) -> ValidCsv | InvalidCsv | None:
        if fields is None:
            return None
        path, etag, *said = fields
        version = CsvVersion(member_source(self.key, path), etag, self.since)
        # A valid CSV has three fields here, an invalid one two: the reason and the line.
        return ValidCsv(version, Person(*said)) if len(said) == 3 else InvalidCsv(version, *said)

    def _lines(self) -> Iterator[tuple[bytes, bytes]]:
        start = len(HEADER)
        while start < len(self.body):
            end = self.body.index(b"\n", start)
            user_id, _, line = self.body[start:end].partition(b"\t")
            yield user_id, line
            start = end + 1

    def _may_have(self, user_id: bytes) -> bool:
        if self._checksums is None:
            self._checksums = array("I", sorted(crc32(user) for user, _ in self._lines()))
        checksum = crc32(user_id)
        place = bisect_left(self._checksums, checksum)
        return place < len(self._checksums) and self._checksums[place] == checksum

    def _line(self, user_id: str) -> list[Any] | None:
        wanted, body, low, high = user_id.encode(), self.body, len(HEADER), len(self.body)
        if not self._may_have(wanted):
            return None
        # Checksums collide, so the line is still searched.  `low` and `high` are starts of lines.
        while low < high:
            middle = (low + high) // 2
            start = body.rfind(b"\n", low, middle) + 1 or low
            end = body.index(b"\n", middle) + 1
            tab = body.index(b"\t", start)
            found = body[start:tab]
            if found == wanted:
                line: list[Any] = json.loads(body[tab:end])
                return line
            low, high = (end, high) if found < wanted else (low, start)
        return None


class IndexBuilder:
    """Collects the lines of an index.

    If a user has several CSVs in the bundle, the last one wins. If it has several images, the first
    extension in `IMAGE_EXTENSIONS` wins, and among images with the same extension the last one.
    """

    def __init__(self) -> None:
        self._csvs: dict[str, str] = {}
        self._images: dict[str, tuple[int, str]] = {}

    def add_csv(self, user_id: str, path: str, csv: ValidCsv | InvalidCsv) -> None:
        """Add the parsed CSV of a user, replacing an earlier one."""
        match csv:
            case ValidCsv(version, person):
                said: list[Any] = [person.first_name, person.last_name, person.birthts]
            case InvalidCsv(version, reason, line):
                said = [reason, line]
        self._csvs[user_id] = _json([path, version.etag, *said])

    def add_image(self, user_id: str, image: MemberImage) -> bool:
        """Add an image of a user; return False if the user has an image of higher rank."""
        rank = IMAGE_EXTENSIONS.index(image.extension)
        if user_id in self._images and self._images[user_id][0] < rank:
            return False
        self._images[user_id] = rank, _json([image.path, image.etag, image.extension])
        return True

    def users(self) -> Collection[str]:
        """Return the IDs of all users that were added."""
        return self._csvs.keys() | self._images.keys()

    def encode(self) -> bytes:
        """Return the bytes of the index, as `BundleIndex` reads them."""
        lines = [HEADER]
        # `BundleIndex` bisects the bytes, so the order must be that of the encoded IDs.
        for user_id in sorted(self.users(), key=str.encode):
            csv, image = self._csvs.get(user_id, "null"), self._images.get(user_id, (0, "null"))[1]
            lines.append(f"{user_id}\t[{csv},{image}]\n".encode())
        return b"".join(lines)


def _json(fields: list[Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
