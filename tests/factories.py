"""Small builders of test data: tests pass what matters, the rest defaults to valid values."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote_plus

from shared.formats.manifest import Fact
from shared.formats.records import CsvVersion, Person, Reject, Row

CAPTURED_DIR = Path(__file__).parent / "captured"
"""Notifications captured from a real MinIO, one per file."""

CSV_COLUMNS = ("first_name", "last_name", "birthts")
BIRTHTS = 946_674_000_000
LAST_MODIFIED = 1_795_638_688
ETAG = "f5edf5a9b97bd7999144e7448fb9b1e5"


def make_person(
    first_name: str = "Ivan", last_name: str = "Ivanov", birthts: int = BIRTHTS
) -> Person:
    return Person(first_name, last_name, birthts)


def make_row(
    user_id: str = "1",
    first_name: str = "Ivan",
    last_name: str = "Ivanov",
    birthts: int = BIRTHTS,
    img_path: str | None = None,
) -> Row:
    """Return a row. If `img_path` is not given, it is that of the user's png."""
    return Row(
        user_id,
        first_name,
        last_name,
        birthts,
        f"src-data/{user_id}.png" if img_path is None else img_path,
    )


def make_rows(*user_ids: str) -> dict[str, Row]:
    return {user_id: make_row(user_id) for user_id in user_ids}


def make_reject(
    user_id: str = "1",
    reason: str = "birthts: empty",
    line: int | None = 2,
    last_modified: int = LAST_MODIFIED,
    etag: str = ETAG,
) -> Reject:
    return Reject(f"{user_id}.csv", user_id, reason, line, last_modified, etag)


def make_fact(
    user_id: str = "1",
    image: str | None = "",
    *,
    held: bool = False,
    source: str = "",
    person: Person | None = None,
) -> Fact:
    """Return a fact. An empty `image` means the user's png, an empty `source` its own CSV."""
    image = f"{user_id}.png" if image == "" else image
    csv = CsvVersion(source or f"{user_id}.csv", ETAG, LAST_MODIFIED)
    return Fact(user_id, csv, person or make_person(), image, held)


def make_csv_text(
    fields: Mapping[str, str] = MappingProxyType({}),
    separator: str = ",",
    line_end: str = "\n",
    columns: Sequence[str] = CSV_COLUMNS,
) -> str:
    """Return a user's CSV with these fields, and defaults for the others.

    `columns` lists the columns to write.
    """
    field_values = {"first_name": "Ivan", "last_name": "Ivanov", "birthts": str(BIRTHTS), **fields}
    header = separator.join(columns)
    line = separator.join(field_values[name] for name in columns)
    return f"{header}{line_end}{line}{line_end}"


def make_csv_body(
    fields: Mapping[str, str] = MappingProxyType({}), encoding: str = "utf-8", line_end: str = "\n"
) -> bytes:
    """Return the same as bytes. The encodings utf-8-sig and utf-16 add a byte order mark."""
    return make_csv_text(fields, line_end=line_end).encode(encoding)


def make_notification(
    key: str = "1.csv", bucket: str = "src-data", name: str = "s3:ObjectCreated:Put"
) -> bytes:
    """Return a notification of MinIO with the relevant fields. `key` is not URL-encoded yet."""
    s3 = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "eTag": ETAG}}
    event = {"Event": [{"eventName": name, "s3": s3}], "EventTime": "2026-11-25T20:31:28.000Z"}
    return json.dumps([event]).encode()


def read_captured_notification(name: str) -> bytes:
    return (CAPTURED_DIR / f"{name}.json").read_bytes()
