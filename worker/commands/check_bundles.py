"""Read the content of all bundles directly from their archives, for `rowdrop check`."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from shared.formats.bundle_catalog import INDEPENDENT_REASONS, CatalogEntry
from shared.formats.records import CsvVersion, InvalidCsv, ValidCsv
from shared.formats.source_keys import (
    IMAGE_EXTENSIONS,
    IgnoredFile,
    UserFile,
    format_member_source,
    make_bundle_id,
)
from shared.object_store import (
    ObjectInfo,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoredObject,
    StoreUnavailable,
    md5_etag,
)
from worker.bundles.archive import open_archive
from worker.bundles.catalog import read_catalog
from worker.bundles.index import BundleIndex, make_index_key
from worker.bundles.members import InvalidArchive, Member, SelectedMembers
from worker.bundles.zip_archive import MAX_DIRECTORY_BYTES
from worker.reading.csv_parsing import parse_csv
from worker.source.ranged_file import RangedFile
from worker.source.unreadable import format_unreadable_reason


@dataclass
class BundleContents:
    """The content of one bundle, by user ID.

    `csvs`: parsed CSVs; if the archive is rejected, also its reject by the ID of the bundle.
    `images`: extension and MD5 of each image.
    """

    csvs: dict[str, ValidCsv | InvalidCsv] = field(default_factory=dict)
    images: dict[str, tuple[str, str]] = field(default_factory=dict)


def read_bundle_contents(
    source: ObjectStore,
    output: ObjectStore,
    bundles: Mapping[str, ObjectInfo],
    zip_names: str = "",
) -> Iterator[BundleContents]:
    """Yield the content of each bundle, by rank; `zip_names` is the codec of ZIP_NAMES.

    A rejected archive yields the previous version that is still visible. A bundle that was given up
    is not read, because it may kill this process, and neither is one that exceeds the disk budget.
    Raises `StoreUnavailable`.
    """
    catalog, _ = read_catalog(output)

    def rank_time(key: str) -> int:
        # A rejected archive has the rank of the version that is still visible.
        entry = catalog.entries.get(key)
        return entry.visible_since if entry and entry.reason else bundles[key].last_modified

    for key in sorted(bundles, key=lambda key: (-rank_time(key), key)):
        entry = catalog.entries.get(key)
        if entry and entry.reason.startswith(INDEPENDENT_REASONS):
            yield _read_rejected_bundle(bundles[key], entry, entry.reason, output)
            continue
        try:
            yield _read_archive(source, bundles[key], zip_names)
        except InvalidArchive as error:
            yield _read_rejected_bundle(bundles[key], entry, error.reason, output)
        except ObjectUnreadable as error:
            yield _read_rejected_bundle(
                bundles[key], entry, format_unreadable_reason(error), output
            )


def _read_rejected_bundle(
    info: ObjectInfo, entry: CatalogEntry | None, reason: str, output: ObjectStore
) -> BundleContents:
    contents = BundleContents()
    if entry and entry.digest:
        index = BundleIndex(
            info.key, entry.visible_since, output.get(make_index_key(entry.digest)).body
        )
        for user_id, csv, image in index.iterate_users():
            contents.csvs |= {user_id: csv} if csv else {}
            contents.images |= {user_id: (image.extension, image.etag)} if image else {}
    # The recorded reason may have a suffix about the previous version.
    full_reason = entry.reason if entry and entry.reason.startswith(reason) else reason
    contents.csvs[make_bundle_id(info.key)] = InvalidCsv(
        CsvVersion(info.key, info.etag, info.last_modified), full_reason, None
    )
    return contents


def _read_archive(source: ObjectStore, info: ObjectInfo, zip_names: str) -> BundleContents:
    contents = BundleContents()
    source.check_readable(info.key)
    with ThreadPoolExecutor(2) as pool:
        read_range = partial(source.get_range, info.key, info.etag)
        try:
            file = RangedFile(read_range, info.size, pool, MAX_DIRECTORY_BYTES)
            selected = SelectedMembers()
            for member in open_archive(info.key, file, zip_names).members():
                if member is None or isinstance(member.file, IgnoredFile):
                    continue
                duplicate = selected.add(member.name)
                if duplicate is None or duplicate[0] is not member.name:
                    _add_member(contents, info, member, member.file)
        except PreconditionFailed:
            raise StoreUnavailable(
                f"{info.key} was replaced while it was read; run the check again"
            ) from None
    return contents


def _add_member(contents: BundleContents, info: ObjectInfo, member: Member, file: UserFile) -> None:
    etag = md5_etag(member.body)
    if file.is_csv:
        stored = StoredObject(member.body, etag, info.last_modified)
        contents.csvs[file.user_id] = parse_csv(format_member_source(info.key, member.path), stored)
        return
    known_image = contents.images.get(file.user_id)
    # Among images with the same extension the last selected one wins, as in `IndexBuilder`.
    if known_image is None or IMAGE_EXTENSIONS.index(file.extension) <= IMAGE_EXTENSIONS.index(
        known_image[0]
    ):
        contents.images[file.user_id] = file.extension, etag
