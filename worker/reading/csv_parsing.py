"""Parse the CSV of one user into a person, or into the reason why it is rejected."""

from collections.abc import Callable

from shared.formats.records import CsvVersion, InvalidCsv, ValidCsv
from shared.formats.user_csv import InvalidUserCsv, parse_person
from shared.object_store import StoredObject

CsvParser = Callable[[str, StoredObject], ValidCsv | InvalidCsv]


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
    """Parse one CSV with `judge`, and reject the CSV if `judge` raises an unexpected error.

    Raises `MemoryError`, which is retried: other work in the process may be its cause.
    """
    try:
        return csv_parser(key, stored)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  every retry would fail likewise
        reason = f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})"
        return InvalidCsv(CsvVersion(key, stored.etag, stored.last_modified), reason, None)
