"""Check for drift: `python -m worker.check` reads every file again and compares it with the output.

It uses neither Redis nor the manifest. Quarantined files are not read, because reading them may
kill the process. Exit status 0: no difference; 1: differences, one per line; 2: a bucket is
unavailable. While files are dropped, a difference may be a change that is not published yet: run it
again.
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
    """The current image of a user.

    `path` is its `img_path`. `etag` and `since` (LastModified) are those of the image, or of the
    original if `path` is a copy.
    """

    path: str
    etag: str
    since: int


def list_source(source: ObjectStore) -> Listing:
    """LIST the whole source bucket. Raises `StoreUnavailable`."""
    listing = Listing()
    for objects in source.objects():
        listing.add(objects)
    return listing


def read_source(
    source: ObjectStore, listing: Listing, quarantined: Mapping[str, str]
) -> dict[str, ValidCsv | InvalidCsv]:
    """Read and parse every user's own CSV.

    `quarantined` maps users to ETags. A CSV with such an ETag is not read and counts as a reject.
    Raises `StoreUnavailable`.
    """

    def read(user_id: str) -> tuple[str, ValidCsv | InvalidCsv] | None:
        key, etag = csv_key(user_id), listing.csvs[user_id]
        try:
            csv: ValidCsv | InvalidCsv
            # `differences` does not compare LastModified, so it is 0 for a CSV that is not read.
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
    """Return the expected CSV and `img_path` of every user with a CSV, and these users' images.

    The CSV is the user's own or one in a bundle. Rejected bundles are included by their ID. Raises
    `StoreUnavailable`.
    """
    listing = list_source(source)
    csvs = read_source(source, listing, quarantined)
    images = {user_id: _own_image(listing, user_id, (source, output), copies_images) for user_id in listing.images}
    for contents in read_bundles(source, output, listing.bundles):
        # In a union the right operand wins: own files, then bundles of higher rank.
        csvs = contents.csvs | csvs
        images = _images_of(contents, output) | images
    if copies_images:
        images = _without_uncopied(source, output, images)
    needed = [images[user_id] for user_id in csvs if user_id in images]
    return {user_id: (csv, images[user_id].path if user_id in images else "") for user_id, csv in csvs.items()}, needed


def _without_uncopied(source: ObjectStore, output: ObjectStore, images: dict[str, Image]) -> dict[str, Image]:
    """Drop the images that have no copy because the server cannot read them."""
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
    assert image is not None  # noqa: S101  called only for users with an image
    bucket = f"{stores[1].bucket}/{IMAGES}" if copies_images else stores[0].bucket
    return Image(f"{bucket}/{image.key}", image.etag, image.last_modified)


def _images_of(contents: BundleContents, output: ObjectStore) -> dict[str, Image]:
    folder = f"{output.bucket}/{IMAGES}"
    images = contents.images.items()
    return {user_id: Image(f"{folder}/{user_id}.{extension}", etag, 0) for user_id, (extension, etag) in images}


def differences(expected: Expected, rows: Mapping[str, Row], rejects: Mapping[str, Reject]) -> Iterator[str]:
    """Yield one sentence for each user that is out of sync. Pure.

    A held row is not a difference.
    """
    for user_id in sorted(expected.keys() | rows.keys() | rejects.keys()):
        row, reject = rows.get(user_id), rejects.get(user_id)
        csv, img_path = expected.get(user_id, (None, ""))
        match csv:
            case None if reject and bundle_key(user_id):
                yield f"{reject.key}: is listed in {REJECTS}, but the bundle is valid or does not exist"
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
                    yield f"{user_id}: its held row does not name its current image"


def _difference(wanted: Row, row: Row | None) -> str:
    if row is None:
        return f"has a valid CSV, but no row in {OUTPUT}"
    names = ("first_name", "last_name", "birthts", "img_path")
    return "differs in " + ", ".join(name for name in names if getattr(wanted, name) != getattr(row, name))


def check(source: ObjectStore, output: ObjectStore, copies_images: bool = False) -> list[str]:
    """Return the differences between the two buckets. Raises `StoreUnavailable`."""
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
    """Yield one sentence for each image copy that is missing, wrong or orphaned."""
    folder = f"{output.bucket}/"
    there = {f"{folder}{info.key}": info for page in output.objects(folder=IMAGES) for info in page}
    wanted = {image.path: image for image in images if image.path.startswith(f"{folder}{IMAGES}/")}
    named = {row.img_path: row.user_id for row in rows.values() if row.img_path.startswith(f"{folder}{IMAGES}/")}
    for path in sorted(named.keys() - there.keys()):
        yield f"{named[path]}: its image copy {path} is missing"
    for path in sorted(there.keys() & wanted.keys()):
        if not is_copy(there[path], wanted[path].etag, wanted[path].since):
            yield f"{named.get(path, path)}: {path} is a copy of another image"
    for path in sorted(there.keys() - named.keys()):
        yield f"{path}: no row names this image copy"


def main() -> None:
    """Check the buckets that the environment configures, and exit with the status."""
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
