"""The users that the benchmark drops, and the exact output.csv that must result from them."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.keys import csv_key, image_key
from shared.output_csv import OutputCsv
from shared.published import IMAGES
from shared.records import Row

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(1016)
"""The content of every image. Rowdrop does not parse images, so it need not be valid."""

_FIRST_NAMES = ("Alva", "Bruno", "Chiara", "Dario", "Elin", "Farid", "Greta", "Hugo", "Ines", "Jonas")
_LAST_NAMES = ("Abel", "Brandt", "Castro", "Duval", "Eriksen", "Fontana", "Gruber")
# Birth dates are from 1945 to 2014.
_EARLIEST_MS = -789_000_000_000
_RANGE_MS = 1 << 41
_STEP = 0x9E3779B97F4A7C15


class Change(NamedTuple):
    """A CSV to drop.

    Once it is published, output.csv has this `etag`. No other row has this `birthts`.
    """

    key: str
    body: bytes
    birthts: int
    etag: str


class Users:
    """Users numbered from 0, with a CSV and an image each.

    Every CSV differs from all the CSVs generated before it.
    """

    def __init__(self, source_bucket: str) -> None:
        self._bucket, self._made = source_bucket, 0
        self.output = OutputCsv()
        """The output.csv that must result when all generated files are published."""

    @staticmethod
    def user_id(number: int) -> str:
        """Return the ID of the user with this number."""
        return f"{number:06}"

    @property
    def etag(self) -> str:
        """Return the ETag of `output`.

        For an object written by one PUT, MinIO's ETag is the MD5 of its bytes.
        """
        return hashlib.md5(self.output.body, usedforsecurity=False).hexdigest()

    def everyone(self, count: int) -> list[tuple[str, bytes]]:
        """Return new files of `count` users as pairs of key and content.

        Each user's CSV comes before its image. Users that have files already get new ones.
        """
        return self._files(range(count), self._bucket)

    def in_bundle(self, output_bucket: str, first: int, count: int) -> list[tuple[str, bytes]]:
        """Return the files of `count` users from number `first`, to be dropped in a bundle.

        In `output` their images are image copies in `output_bucket`.
        """
        return self._files(range(first, first + count), f"{output_bucket}/{IMAGES}")

    def _files(self, numbers: Iterable[int], images: str) -> list[tuple[str, bytes]]:
        rows = {self.user_id(number): self._row(number, images) for number in numbers}
        self.output = self.output.replace(rows)
        return [file for row in rows.values() for file in _files(row)]

    def change(self, number: int) -> Change:
        """Return a new CSV for this user."""
        row = self._row(number, self._bucket)
        self.output = self.output.replace({row.user_id: row})
        return Change(csv_key(row.user_id), _csv(row), row.birthts, self.etag)

    def _row(self, number: int, images: str) -> Row:
        self._made += 1
        user_id, made = self.user_id(number), self._made
        birthts = made * _STEP % _RANGE_MS + _EARLIEST_MS  # odd step: no repeats
        names = _FIRST_NAMES[made % len(_FIRST_NAMES)], _LAST_NAMES[number % len(_LAST_NAMES)]
        return Row(user_id, *names, birthts, f"{images}/{image_key(user_id, 'png')}")


def _files(row: Row) -> Iterator[tuple[str, bytes]]:
    yield csv_key(row.user_id), _csv(row)
    yield image_key(row.user_id, "png"), IMAGE


def _csv(row: Row) -> bytes:
    return f"first_name,last_name,birthts\n{row.first_name},{row.last_name},{row.birthts}\n".encode()
