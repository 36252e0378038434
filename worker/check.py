"""Is what is published what the bucket says?  `python -m worker.check` reads everything anew and compares.

It uses neither Redis nor the manifest, and does not read what is quarantined, which might end it.  Exit status 0: no
difference; 1: some, one a line; 2: it could not look.  While files are being dropped a difference may be one that is
just on its way: look again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from shared.keys import bundle_key, csv_key
from shared.object_store import ObjectNotFound, ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.output_csv import OutputCsv
from shared.published import IMAGES, OUTPUT, REJECTS
from shared.records import QUARANTINED, CsvVersion, InvalidCsv, Reject, Row, ValidCsv
from shared.settings import InvalidSettings
from worker.check_bundles import BundleContents, read_bundles
from worker.images import is_copy
from worker.listing import Listing
from worker.published_files import read_published
from worker.refresh import judge
from worker.unreadable import reason_of
from worker.user_csv import MAX_CSV_BYTES
from worker.wiring import READERS, Wiring

Expected = Mapping[str, tuple[ValidCsv | InvalidCsv, str]]


class Image(NamedTuple):
    """The image that belongs to a user: `img_path`, and ETag and LastModified of what is there, or was copied."""

    path: str
    etag: str
    since: int


def list_source(source: ObjectStore) -> Listing:
    """Everything in the source bucket.  Raises `StoreUnavailable`."""
    listing = Listing()
    for objects in source.objects():
        listing.add(objects)
    return listing


def read_source(
    source: ObjectStore, listing: Listing, quarantined: Mapping[str, str]
) -> dict[str, ValidCsv | InvalidCsv]:
    """Every user who has a CSV of their own, and what it says.  Raises `StoreUnavailable`.

    Of `quarantined` users, a CSV of the ETag given here is not read, and taken for a reject.
    """

    def read(user_id: str) -> tuple[str, ValidCsv | InvalidCsv] | None:
        key, etag = csv_key(user_id), listing.csvs[user_id]
        try:
            csv: ValidCsv | InvalidCsv
            if quarantined.get(user_id) == etag:
                csv = InvalidCsv(CsvVersion(key, etag, 0), QUARANTINED, None)
            else:
                csv = judge(key, source.get(key, most=MAX_CSV_BYTES))
        except ObjectNotFound:  # deleted since it was listed
            return None
        except ObjectUnreadable as error:
            csv = InvalidCsv(CsvVersion(key, etag, 0), reason_of(error), None)
        return user_id, csv

    with ThreadPoolExecutor(READERS) as pool:
        return dict(filter(None, pool.map(read, listing.csvs)))


def expected(
    source: ObjectStore, output: ObjectStore, quarantined: Mapping[str, str], copies_images: bool
) -> tuple[Expected, list[Image]]:
    """Every user who has a CSV, of their own or in a bundle: what it says, and the `img_path` that belongs to it.

    Bundles that are rejects are there by their ids.  And the images of all these users.  Raises `StoreUnavailable`.
    """
    listing = list_source(source)
    csvs = read_source(source, listing, quarantined)
    images = {user_id: _own_image(listing, user_id, (source, output), copies_images) for user_id in listing.images}
    for contents in read_bundles(source, output, listing.bundles):
        csvs = contents.csvs | csvs
        images = _images_of(contents, output) | images
    if copies_images:
        images = _without_uncopied(source, output, images)
    needed = [images[user_id] for user_id in csvs if user_id in images]
    return {user_id: (csv, images[user_id].path if user_id in images else "") for user_id, csv in csvs.items()}, needed


def _without_uncopied(source: ObjectStore, output: ObjectStore, images: dict[str, Image]) -> dict[str, Image]:
    """Without those images that have no copy because they cannot be read."""
    there = {f"{output.bucket}/{info.key}" for page in output.objects(folder=IMAGES) for info in page}
    unreadable = set()
    for user_id, image in images.items():
        if image.path not in there:
            try:
                source.check_readable(image.path.removeprefix(f"{output.bucket}/{IMAGES}/"))
            except ObjectUnreadable:
                unreadable.add(user_id)
    return {user_id: images[user_id] for user_id in images.keys() - unreadable}


def _own_image(listing: Listing, user_id: str, stores: tuple[ObjectStore, ObjectStore], copies_images: bool) -> Image:
    image = listing.image(user_id)
    assert image is not None  # noqa: S101  whoever is asked for has one
    bucket = f"{stores[1].bucket}/{IMAGES}" if copies_images else stores[0].bucket
    return Image(f"{bucket}/{image.key}", image.etag, image.last_modified)


def _images_of(contents: BundleContents, output: ObjectStore) -> dict[str, Image]:
    folder = f"{output.bucket}/{IMAGES}"
    images = contents.images.items()
    return {user_id: Image(f"{folder}/{user_id}.{extension}", etag, 0) for user_id, (extension, etag) in images}


def differences(expected: Expected, rows: Mapping[str, Row], rejects: Mapping[str, Reject]) -> Iterator[str]:
    """One sentence for each user whose published state is not the expected one.  A held row is none.  Pure."""
    for user_id in sorted(expected.keys() | rows.keys() | rejects.keys()):
        row, reject = rows.get(user_id), rejects.get(user_id)
        csv, img_path = expected.get(user_id, (None, ""))
        match csv:
            case None if reject and bundle_key(user_id):
                yield f"{reject.key}: is listed in {REJECTS}, but it can be used, or is gone"
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


def check(source: ObjectStore, output: ObjectStore, copies_images: bool = False) -> list[str]:
    """The differences between the two buckets.  Raises `StoreUnavailable`."""
    published = read_published(output)
    wanted, images = expected(source, output, published.quarantined(), copies_images)
    found = [] if published.output_etag else [f"there is no {OUTPUT}"]
    rows = {row.user_id: row for row in OutputCsv(published.output).rows()}
    return [
        *found,
        *differences(wanted, rows, published.rejects),
        *wrong_copies(rows, images, output),
    ]


def wrong_copies(rows: Mapping[str, Row], images: Sequence[Image], output: ObjectStore) -> Iterator[str]:
    """One sentence for each copy that is missing, is one of another image, or is needed by nobody."""
    folder = f"{output.bucket}/"
    there = {f"{folder}{info.key}": info for page in output.objects(folder=IMAGES) for info in page}
    wanted = {image.path: image for image in images if image.path.startswith(f"{folder}{IMAGES}/")}
    named = {row.img_path: row.user_id for row in rows.values() if row.img_path.startswith(f"{folder}{IMAGES}/")}
    for path in sorted(named.keys() - there.keys()):
        yield f"{named[path]}: its image {path} is not there"
    for path in sorted(there.keys() & wanted.keys()):
        if not is_copy(there[path], wanted[path].etag, wanted[path].since):
            yield f"{named.get(path, path)}: {path} is a copy of another image"
    for path in sorted(there.keys() - named.keys()):
        yield f"{path}: is no row's image"


def main() -> None:
    """Check the buckets that the environment names."""
    try:
        wiring = Wiring.from_environment(redis=False)
        found = check(wiring.source, wiring.output, wiring.settings.copies_images)
    except (InvalidSettings, StoreUnavailable) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("\n".join([*found, f"{len(found)} differences"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
