"""Read and parse the CSV of one user: a person, or the reason why the CSV is rejected."""

import logging
from collections.abc import Callable

from shared.csv_reader.reasons import MAX_CSV_BYTES, InvalidUserCsv
from shared.csv_reader.user_csv import parse_person
from shared.formats.records import CsvResult, CsvVersion, InvalidCsv, ValidCsv
from shared.formats.source_keys import MAX_FILE_NAME_BYTES, make_csv_key
from shared.object_store import (
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoredObject,
    StoreUnavailable,
)
from worker.source.unreadable import format_unreadable_reason

logger = logging.getLogger(__name__)

CsvParser = Callable[[str, StoredObject], ValidCsv | InvalidCsv]


class CsvReader:
    """Reads users' own CSVs in the source bucket."""

    def __init__(self, source: ObjectStore, csv_parser: CsvParser) -> None:
        self._source = source
        self._csv_parser = csv_parser

    def read_csv(self, user_id: str) -> CsvResult:
        """Read and parse the user's CSV; return None if there is no CSV.

        Raises `StoreUnavailable`, in particular `ObjectUnreadable`.
        """
        key = make_csv_key(user_id)
        if not fits_name_limit(key):
            return None
        try:
            stored = self._source.get(key, max_bytes=MAX_CSV_BYTES)
        except ObjectNotFound:
            return None
        return parse_csv_safely(self._csv_parser, key, stored)

    def read_csv_or_reject(self, user_id: str) -> CsvResult:
        """Read the user's CSV like `read_csv`; return a reject if it still cannot be read.

        Raises `StoreUnavailable`.
        """
        # LIST shows the ETag of an object on which HEAD fails. It comes before the GET: a sweep
        # reads a reject with an older ETag than that of the object again, but one with a newer ETag
        # might stay.
        info = self._source.get_list_entry(make_csv_key(user_id))
        try:
            return self.read_csv(user_id)
        except ObjectUnreadable as error:
            if info is None:
                raise StoreUnavailable(f"{error.key} changed while it was read; retrying") from None
            logger.warning("rejecting a CSV that cannot be read; each sweep retries it: %s", error)
            version = CsvVersion(info.key, info.etag, info.last_modified)
            return InvalidCsv(version, format_unreadable_reason(error), None)


def fits_name_limit(key: str) -> bool:
    """Return whether the server can store an object with this key."""
    return len(key.encode()) <= MAX_FILE_NAME_BYTES


def parse_csv(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """Parse one CSV.

    Pure: the same bytes always give the same result.
    """
    version = CsvVersion(key, stored.etag, stored.last_modified)
    try:
        return ValidCsv(version, parse_person(stored.body))
    except InvalidUserCsv as error:
        return InvalidCsv(version, error.reason, error.line)


def parse_csv_safely(
    csv_parser: CsvParser, key: str, stored: StoredObject
) -> ValidCsv | InvalidCsv:
    """Parse one CSV with `csv_parser`, and reject the CSV if that raises an unexpected error.

    Raises `MemoryError`, which is retried: other work in the process may be its cause.
    """
    try:
        return csv_parser(key, stored)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  every retry would fail likewise
        version = CsvVersion(key, stored.etag, stored.last_modified)
        return InvalidCsv(version, format_fault_reason(error), None)


def format_fault_reason(error: Exception) -> str:
    """Return the reason of the reject after an unexpected error, without the error's message."""
    return f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})"
