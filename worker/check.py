"""Is what is published what the bucket says?  `python -m worker.check` reads everything anew and compares.

It uses neither Redis nor the manifest, and does not read what is quarantined, which might end it.  Exit status 0: no
difference; 1: some, one a line; 2: it could not look.  While files are being dropped a difference may be one that is
just on its way: look again.
"""

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from shared.keys import csv_key
from shared.object_store import ObjectNotFound, ObjectStore, StoreUnavailable
from shared.output_csv import OutputCsv
from shared.published import OUTPUT, REJECTS
from shared.records import QUARANTINED, CsvVersion, InvalidCsv, Reject, Row, ValidCsv
from shared.settings import InvalidSettings
from worker.listing import Listing
from worker.published_files import read_published
from worker.refresh import judge
from worker.user_csv import MAX_CSV_BYTES
from worker.wiring import READERS, Wiring

Expected = Mapping[str, tuple[ValidCsv | InvalidCsv, str]]


def read_source(source: ObjectStore, quarantined: Mapping[str, str]) -> Expected:
    """Every user who has a CSV: what it says, and the `img_path` that belongs to it.  Raises `StoreUnavailable`.

    Of `quarantined` users, a CSV of the ETag given here is not read, and taken for a reject.
    """
    listing = Listing()
    for objects in source.objects():
        listing.add(objects)

    def read(user_id: str) -> tuple[str, tuple[ValidCsv | InvalidCsv, str]] | None:
        key, etag = csv_key(user_id), listing.csvs[user_id]
        try:
            csv: ValidCsv | InvalidCsv
            if quarantined.get(user_id) == etag:
                csv = InvalidCsv(CsvVersion(key, etag, 0), QUARANTINED, None)
            else:
                csv = judge(key, source.get(key, most=MAX_CSV_BYTES))
        except ObjectNotFound:  # deleted since it was listed
            return None
        image = listing.image(user_id)
        return user_id, (csv, f"{source.bucket}/{image}" if image else "")

    with ThreadPoolExecutor(READERS) as pool:
        return dict(filter(None, pool.map(read, listing.csvs)))


def differences(expected: Expected, rows: Mapping[str, Row], rejects: Mapping[str, Reject]) -> Iterator[str]:
    """One sentence for each user whose published state is not the expected one.  A held row is none.  Pure."""
    for user_id in sorted(expected.keys() | rows.keys() | rejects.keys()):
        row, reject = rows.get(user_id), rejects.get(user_id)
        csv, img_path = expected.get(user_id, (None, ""))
        match csv:
            case None if row or reject:
                yield f"{user_id}: has no CSV, but {'a row' if row else 'a reject'}"
            case ValidCsv(_, person):
                wanted = Row(user_id, person.first_name, person.last_name, person.birthts, img_path)
                if row != wanted:
                    yield f"{user_id}: {_difference(wanted, row)}"
                if reject:
                    yield f"{user_id}: has a valid CSV, but is listed in {REJECTS}"
            case InvalidCsv(version, reason, _):
                if reject is None or (reject.etag, reject.reason) != (version.etag, reason):
                    yield f"{user_id}: its invalid CSV is not listed in {REJECTS} with its reason"
                if row and row != replace(row, img_path=img_path):
                    yield f"{user_id}: its held row does not follow its image"


def _difference(wanted: Row, row: Row | None) -> str:
    if row is None:
        return f"has a valid CSV, but no row in {OUTPUT}"
    names = ("first_name", "last_name", "birthts", "img_path")
    return "differs in " + ", ".join(name for name in names if getattr(wanted, name) != getattr(row, name))


def check(source: ObjectStore, output: ObjectStore) -> list[str]:
    """The differences between the two buckets.  Raises `StoreUnavailable`."""
    published = read_published(output)
    expected = read_source(source, published.quarantined())
    found = [] if published.output_etag else [f"there is no {OUTPUT}"]
    rows = {row.user_id: row for row in OutputCsv(published.output).rows()}
    return found + list(differences(expected, rows, published.rejects))


def main() -> None:
    """Check the buckets that the environment names."""
    try:
        wiring = Wiring.from_environment()
        found = check(wiring.source, wiring.output)
    except (InvalidSettings, StoreUnavailable) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("\n".join([*found, f"{len(found)} differences"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
