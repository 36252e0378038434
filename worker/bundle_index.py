"""What is in one version of a bundle: user by user, as lines sorted by the id's UTF-8 bytes.  Pure.

    <user_id> TAB [csv, image]        JSON; no id has a tab.  null for what the bundle does not have of the user
    csv      [path, etag, first_name, last_name, birthts], or [path, etag, reason, line] of one that is no good
    image    [path, etag, extension]

The lines are found by bisecting the bytes, as those of output.csv are: hardly more memory than the bytes themselves.
Almost everybody who is looked for is in none of many bundles; that is known sooner by the checksums of the ids.
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
    """These bytes are no index."""


@dataclass(frozen=True, slots=True)
class MemberImage:
    """An image in a bundle: its path there, the MD5 of its bytes, one of `IMAGE_EXTENSIONS`."""

    path: str
    etag: str
    extension: str


class BundleIndex:
    """The index of the bundle `key`, of the version that was dropped at `since` (whole seconds, UTC); immutable."""

    __slots__ = ("_checksums", "body", "key", "since")

    def __init__(self, key: str, since: int, body: bytes) -> None:
        """Take the bytes as they are.  Raises `InvalidIndex` without our header."""
        if not body.startswith(HEADER) or not body.endswith(b"\n"):
            raise InvalidIndex(key)
        self.key, self.since, self.body = key, since, body
        self._checksums: array[int] | None = None

    def csv(self, user_id: str) -> ValidCsv | InvalidCsv | None:
        """What the user's CSV in the bundle says; None without one."""
        line = self._line(user_id)
        return self._csv(line[0]) if line else None

    def image(self, user_id: str) -> MemberImage | None:
        """The user's image in the bundle."""
        line = self._line(user_id)
        return MemberImage(*line[1]) if line and line[1] else None

    def users(self) -> Iterator[str]:
        """Everyone of whom the bundle has something, in order."""
        return (user_id.decode() for user_id, _ in self._lines())

    def entries(self) -> Iterator[tuple[str, ValidCsv | InvalidCsv | None, MemberImage | None]]:
        """Everyone, in order, with what the bundle has of them."""
        for user_id, line in self._lines():
            csv, image = json.loads(line)
            yield user_id.decode(), self._csv(csv), MemberImage(*image) if image else None

    def _csv(self, fields: list[Any] | None) -> ValidCsv | InvalidCsv | None:
        if fields is None:
            return None
        path, etag, *said = fields
        version = CsvVersion(member_source(self.key, path), etag, self.since)
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
    """Gathers an index.  Of two CSVs of one user, or two images with the same extension, the later one counts."""

    def __init__(self) -> None:
        self._csvs: dict[str, str] = {}
        self._images: dict[str, tuple[int, str]] = {}

    def add_csv(self, user_id: str, path: str, csv: ValidCsv | InvalidCsv) -> None:
        """The bundle has this CSV at this path."""
        match csv:
            case ValidCsv(version, person):
                said: list[Any] = [person.first_name, person.last_name, person.birthts]
            case InvalidCsv(version, reason, line):
                said = [reason, line]
        self._csvs[user_id] = _json([path, version.etag, *said])

    def add_image(self, user_id: str, image: MemberImage) -> bool:
        """The bundle has this image.  False if another one of the user's counts in its place."""
        rank = IMAGE_EXTENSIONS.index(image.extension)
        if user_id in self._images and self._images[user_id][0] < rank:
            return False
        self._images[user_id] = rank, _json([image.path, image.etag, image.extension])
        return True

    def users(self) -> Collection[str]:
        """Everyone who is in it."""
        return self._csvs.keys() | self._images.keys()

    def encode(self) -> bytes:
        """The bytes that `BundleIndex` takes."""
        lines = [HEADER]
        for user_id in sorted(self.users(), key=str.encode):
            csv, image = self._csvs.get(user_id, "null"), self._images.get(user_id, (0, "null"))[1]
            lines.append(f"{user_id}\t[{csv},{image}]\n".encode())
        return b"".join(lines)


def _json(fields: list[Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
