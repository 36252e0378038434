"""Check for drift (`rowdrop check`): read every file again and compare it with the output.

It uses neither Redis nor the manifest. Quarantined files are not read, because reading them may
kill the process. While files are dropped, a difference may be a change that is not published yet:
run it again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.object_names import IMAGES_FOLDER, OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_COLUMNS, OutputCsv
from shared.formats.records import QUARANTINE_REASON, CsvVersion, InvalidCsv, Reject, Row, ValidCsv
from shared.formats.source_keys import make_csv_key, parse_bundle_id
from shared.object_store import ObjectNotFound, ObjectStore, ObjectUnreadable
from worker.commands.check_bundles import BundleContents, read_bundle_contents
from worker.publishing.published_files import read_published_files
from worker.reading.csv_parsing import parse_csv
from worker.reading.image_copies import is_copy, read_source_etags
from worker.services.clients import READ_CONCURRENCY
from worker.source.listing import Listing
from worker.source.unreadable import format_unreadable_reason

ExpectedRows = Mapping[str, tuple[ValidCsv | InvalidCsv, str]]
ProgressCallback = Callable[[int, int], None]
"""Takes the number of CSVs that were read, and of all CSVs."""


def ignore_progress(_done: int, _total: int) -> None:
    """Do nothing: the default `ProgressCallback`."""


class ExpectedImage(NamedTuple):
    """The current image of a user.

    `path` is its `img_path`. `etag` and `last_modified` (LastModified) are those of the image, or
    of the original if `path` is a copy.
    """

    path: str
    etag: str
    last_modified: int


class ExpectedState(NamedTuple):
    """What the source bucket demands.

    `rows` has the CSV and the `img_path` of every user with a CSV, and rejected bundles by their
    ID. `images` are those of these users. `file_count` and `bundle_count` are the numbers of users'
    files and of bundles in the bucket.
    """

    rows: ExpectedRows
    images: Sequence[ExpectedImage]
    file_count: int
    bundle_count: int


class ComparedCounts(NamedTuple):
    """What a check has compared: users' files and bundles, their users, and what is published."""

    files: int
    bundles: int
    users: int
    rows: int
    rejects: int


class CheckResult(NamedTuple):
    """The differences, one sentence each, and how much was compared."""

    differences: list[str]
    compared: ComparedCounts


def list_source(source: ObjectStore) -> Listing:
    """LIST the whole source bucket. Raises `StoreUnavailable`."""
    listing = Listing()
    for objects in source.list_objects():
        listing.add_objects(objects)
    return listing


def read_own_csvs(
    source: ObjectStore,
    listing: Listing,
    quarantined: Mapping[str, str],
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, ValidCsv | InvalidCsv]:
    """Read and parse every user's own CSV.

    `quarantined` maps users to ETags. A CSV with such an ETag is not read and counts as a reject.
    Raises `StoreUnavailable`.
    """

    def read_csv(user_id: str) -> tuple[str, ValidCsv | InvalidCsv] | None:
        key = make_csv_key(user_id)
        etag = listing.csv_etags[user_id]
        try:
            csv: ValidCsv | InvalidCsv
            # `find_differences` does not compare LastModified: it is 0 for a CSV that is not read.
            if quarantined.get(user_id) == etag:
                csv = InvalidCsv(CsvVersion(key, etag, 0), QUARANTINE_REASON, None)
            else:
                csv = parse_csv(key, source.get(key, max_bytes=MAX_CSV_BYTES))
        except ObjectNotFound:  # deleted since it was listed
            return None
        except ObjectUnreadable as error:
            csv = InvalidCsv(CsvVersion(key, etag, 0), format_unreadable_reason(error), None)
        return user_id, csv

    csvs: dict[str, ValidCsv | InvalidCsv] = {}
    with ThreadPoolExecutor(READ_CONCURRENCY) as pool:
        for done, user_and_csv in enumerate(pool.map(read_csv, listing.csv_etags), 1):
            if user_and_csv:
                csvs[user_and_csv[0]] = user_and_csv[1]
            on_progress(done, len(listing.csv_etags))
    return csvs


def compute_expected(
    source: ObjectStore,
    output: ObjectStore,
    quarantined: Mapping[str, str],
    copies_images: bool,
    on_progress: ProgressCallback = ignore_progress,
    zip_names: str = "",
) -> ExpectedState:
    """Return what should be published: from the user's own files, or from those in bundles.

    Raises `StoreUnavailable`.
    """
    listing = list_source(source)
    csvs = read_own_csvs(source, listing, quarantined, on_progress)
    images = {
        user_id: _expected_own_image(listing, user_id, (source, output), copies_images)
        for user_id in listing.images
    }
    for contents in read_bundle_contents(source, output, listing.bundles, zip_names):
        # In a union the right operand wins: own files, then bundles of higher rank.
        csvs = contents.csvs | csvs
        images = _expected_bundle_images(contents, output) | images
    if copies_images:
        images = _exclude_uncopied_images(source, output, images)
    needed = [images[user_id] for user_id in csvs if user_id in images]
    rows = {
        user_id: (csv, images[user_id].path if user_id in images else "")
        for user_id, csv in csvs.items()
    }
    file_count = len(listing.csv_etags) + sum(map(len, listing.images.values()))
    return ExpectedState(rows, needed, file_count, len(listing.bundles))


def _exclude_uncopied_images(
    source: ObjectStore, output: ObjectStore, images: dict[str, ExpectedImage]
) -> dict[str, ExpectedImage]:
    """Drop the images that have no copy because the server cannot read them."""
    copy_paths = {
        f"{output.bucket}/{info.key}"
        for page in output.list_objects(folder=IMAGES_FOLDER)
        for info in page
    }
    unreadable = set()
    for user_id, image in images.items():
        if image.path not in copy_paths:
            try:
                source.check_readable(image.path.removeprefix(f"{output.bucket}/{IMAGES_FOLDER}/"))
            except ObjectUnreadable:
                unreadable.add(user_id)
    return {user_id: images[user_id] for user_id in images.keys() - unreadable}


def _expected_own_image(
    listing: Listing, user_id: str, stores: tuple[ObjectStore, ObjectStore], copies_images: bool
) -> ExpectedImage:
    image = listing.current_image(user_id)
    assert image is not None  # noqa: S101  called only for users with an image
    bucket = f"{stores[1].bucket}/{IMAGES_FOLDER}" if copies_images else stores[0].bucket
    return ExpectedImage(f"{bucket}/{image.key}", image.etag, image.last_modified)


def _expected_bundle_images(
    contents: BundleContents, output: ObjectStore
) -> dict[str, ExpectedImage]:
    folder = f"{output.bucket}/{IMAGES_FOLDER}"
    images = contents.images.items()
    return {
        user_id: ExpectedImage(f"{folder}/{user_id}.{extension}", etag, 0)
        for user_id, (extension, etag) in images
    }


def find_differences(
    expected_rows: ExpectedRows, rows: Mapping[str, Row], rejects: Mapping[str, Reject]
) -> Iterator[str]:
    """Yield one sentence for each user that is out of sync. Pure.

    A held row is not a difference.
    """
    for user_id in sorted(expected_rows.keys() | rows.keys() | rejects.keys()):
        row = rows.get(user_id)
        reject = rejects.get(user_id)
        csv, img_path = expected_rows.get(user_id, (None, ""))
        match csv:
            case None if reject and parse_bundle_id(user_id):
                yield (
                    f"{reject.key}: is listed in {REJECTS_KEY},"
                    " but the bundle is valid or does not exist"
                )
            case None if row or reject:
                yield f"{user_id}: has no CSV, but {'a row' if row else 'a reject'}"
            case ValidCsv(_, person):
                expected_row = Row(
                    user_id, person.first_name, person.last_name, person.birthts, img_path
                )
                if row != expected_row:
                    yield f"{user_id}: {_describe_difference(expected_row, row)}"
                if reject:
                    yield f"{user_id}: has a valid CSV, but is listed in {REJECTS_KEY}"
            case InvalidCsv(version, reason, _):
                if reject is None or (reject.etag, reject.reason) != (version.etag, reason):
                    yield (
                        f"{user_id}: its invalid CSV is not listed in {REJECTS_KEY} with its reason"
                    )
                if row and row != replace(row, img_path=img_path):
                    yield f"{user_id}: its held row does not name its current image"


def _describe_difference(expected_row: Row, row: Row | None) -> str:
    if row is None:
        return f"has a valid CSV, but no row in {OUTPUT_KEY}"
    return "differs in " + ", ".join(
        name for name in OUTPUT_COLUMNS if getattr(expected_row, name) != getattr(row, name)
    )


def check_buckets(
    source: ObjectStore,
    output: ObjectStore,
    copies_images: bool = False,
    on_progress: ProgressCallback = ignore_progress,
    zip_names: str = "",
) -> CheckResult:
    """Return the differences between the two buckets; `zip_names` is the codec of ZIP_NAMES.

    Raises `StoreUnavailable`.
    """
    published = read_published_files(output)
    quarantined = published.find_quarantined()
    expected = compute_expected(source, output, quarantined, copies_images, on_progress, zip_names)
    differences = [] if published.output_etag else [f"there is no {OUTPUT_KEY}"]
    rows = {row.user_id: row for row in OutputCsv(published.output).iterate_rows()}
    differences += find_differences(expected.rows, rows, published.rejects)
    differences += find_wrong_copies(rows, expected.images, output)
    users = [user_id for user_id in expected.rows if parse_bundle_id(user_id) is None]
    return CheckResult(
        differences,
        ComparedCounts(
            expected.file_count,
            expected.bundle_count,
            len(users),
            len(rows),
            len(published.rejects),
        ),
    )


def find_wrong_copies(
    rows: Mapping[str, Row], images: Sequence[ExpectedImage], output: ObjectStore
) -> Iterator[str]:
    """Yield one sentence for each image copy that is missing, wrong or orphaned."""
    folder = f"{output.bucket}/"
    copies = {info.key: info for page in output.list_objects(folder=IMAGES_FOLDER) for info in page}
    expected_copies = {
        image.path: image for image in images if image.path.startswith(f"{folder}{IMAGES_FOLDER}/")
    }
    # Where objects are encrypted, a copy has another ETag than its image.
    other_keys = {
        key
        for key, info in copies.items()
        if (image := expected_copies.get(f"{folder}{key}"))
        and not is_copy(info, image.etag, image.last_modified)
    }
    copies |= read_source_etags(output, copies, other_keys, lambda: None)
    existing_copies = {f"{folder}{key}": info for key, info in copies.items()}
    user_by_path = {
        row.img_path: row.user_id
        for row in rows.values()
        if row.img_path.startswith(f"{folder}{IMAGES_FOLDER}/")
    }
    for path in sorted(user_by_path.keys() - existing_copies.keys()):
        yield f"{user_by_path[path]}: its image copy {path} is missing"
    for path in sorted(existing_copies.keys() & expected_copies.keys()):
        if not is_copy(
            existing_copies[path], expected_copies[path].etag, expected_copies[path].last_modified
        ):
            yield f"{user_by_path.get(path, path)}: {path} is a copy of another image"
    for path in sorted(existing_copies.keys() - user_by_path.keys()):
        yield f"{path}: no row names this image copy"
