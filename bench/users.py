"""The users that the benchmark drops, and the exact output.csv that must result from them."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.output_csv import OutputCsv
from shared.formats.records import Row
from shared.formats.source_keys import make_csv_key, make_image_key

IMAGE_BYTES = b"\x89PNG\r\n\x1a\n" + bytes(1016)
"""The content of every image. Rowdrop does not parse images, so it need not be valid."""

_FIRST_NAMES = (
    "Alva", "Bruno", "Chiara", "Dario", "Elin", "Farid", "Greta", "Hugo", "Ines", "Jonas",
)  # fmt: skip
_LAST_NAMES = ("Abel", "Brandt", "Castro", "Duval", "Eriksen", "Fontana", "Gruber")
# Birth dates are from 1945 to 2014.
_EARLIEST_MS = -789_000_000_000
_RANGE_MS = 1 << 41
_STEP = 0x9E3779B97F4A7C15


class CsvChange(NamedTuple):
    """A CSV to drop.

    Once it is published, output.csv has this `etag`. No other row has this `birthts`.
    """

    key: str
    body: bytes
    birthts: int
    etag: str


class BenchUsers:
    """Users numbered from 0, with a CSV and an image each.

    Every CSV differs from all the CSVs generated before it.
    """

    def __init__(self, source_bucket: str) -> None:
        self._bucket = source_bucket
        self._csv_count = 0
        self.output = OutputCsv()
        """The output.csv that must result when all generated files are published."""

    @staticmethod
    def format_user_id(number: int) -> str:
        """Return the ID of the user with this number."""
        return f"{number:06}"

    @property
    def etag(self) -> str:
        """Return the ETag of `output`.

        For an object written by one PUT, MinIO's ETag is the MD5 of its bytes.
        """
        return hashlib.md5(self.output.body, usedforsecurity=False).hexdigest()

    def make_files(self, count: int) -> list[tuple[str, bytes]]:
        """Return new files of `count` users as pairs of key and content.

        Each user's CSV comes before its image. Users that have files already get new ones.
        """
        return self._make_files(range(count), self._bucket)

    def make_bundle_files(
        self, output_bucket: str, first: int, count: int
    ) -> list[tuple[str, bytes]]:
        """Return the files of `count` users from number `first`, to be dropped in a bundle.

        In `output` their images are image copies in `output_bucket`.
        """
        return self._make_files(range(first, first + count), f"{output_bucket}/{IMAGES_FOLDER}")

    def _make_files(self, numbers: Iterable[int], images_prefix: str) -> list[tuple[str, bytes]]:
        new_rows = [self._make_row(number, images_prefix) for number in numbers]
        rows = {row.user_id: row for row in new_rows}
        self.output = self.output.with_changes(rows)
        return [file for row in rows.values() for file in _iterate_files(row)]

    def make_change(self, number: int) -> CsvChange:
        """Return a new CSV for this user."""
        row = self._make_row(number, self._bucket)
        self.output = self.output.with_changes({row.user_id: row})
        return CsvChange(make_csv_key(row.user_id), _encode_csv(row), row.birthts, self.etag)

    def _make_row(self, number: int, images_prefix: str) -> Row:
        self._csv_count += 1
        user_id = self.format_user_id(number)
        csv_number = self._csv_count
        birthts = csv_number * _STEP % _RANGE_MS + _EARLIEST_MS  # odd step: no repeats
        names = _FIRST_NAMES[csv_number % len(_FIRST_NAMES)], _LAST_NAMES[number % len(_LAST_NAMES)]
        return Row(user_id, *names, birthts, f"{images_prefix}/{make_image_key(user_id, 'png')}")


def _iterate_files(row: Row) -> Iterator[tuple[str, bytes]]:
    yield make_csv_key(row.user_id), _encode_csv(row)
    yield make_image_key(row.user_id, "png"), IMAGE_BYTES


def _encode_csv(row: Row) -> bytes:
    return (
        f"first_name,last_name,birthts\n{row.first_name},{row.last_name},{row.birthts}\n".encode()
    )
