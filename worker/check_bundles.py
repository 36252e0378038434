"""Read the content of all bundles directly from their archives, for `worker.check`."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from shared.keys import IMAGE_EXTENSIONS, Ignored, UserFile, bundle_id, member_source
from shared.object_store import (
    ObjectInfo,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoredObject,
    StoreUnavailable,
)
from shared.records import CsvVersion, InvalidCsv, ValidCsv
from worker.archive import InvalidArchive, Member
from worker.bundle_index import BundleIndex
from worker.bundles import index_key
from worker.ranged import RangedFile
from worker.refresh import judge
from worker.shelf import Shelved, read_shelf
from worker.unpack import STUCK, open_archive
from worker.unreadable import reason_of
from worker.zip_archive import MOST_DIRECTORY_BYTES


@dataclass
class BundleContents:
    """The content of one bundle, by user ID.

    `csvs`: parsed CSVs; if the archive is rejected, also its reject by the ID of the bundle.
    `images`: extension and MD5 of each image.
    """

    csvs: dict[str, ValidCsv | InvalidCsv] = field(default_factory=dict)
    images: dict[str, tuple[str, str]] = field(default_factory=dict)


def read_bundles(
    source: ObjectStore, output: ObjectStore, bundles: Mapping[str, ObjectInfo]
) -> Iterator[BundleContents]:
    """Yield the content of each bundle, by rank.

    A rejected archive yields the previous version that is still visible. A bundle that was given up
    is not read, because it may kill this process. Raises `StoreUnavailable`.
    """
    shelf, _ = read_shelf(output)

    def since(key: str) -> int:
        # A rejected archive has the rank of the version that is still visible.
        shelved = shelf.bundles.get(key)
        return shelved.visible_since if shelved and shelved.reason else bundles[key].last_modified

    for key in sorted(bundles, key=lambda key: (-since(key), key)):
        shelved = shelf.bundles.get(key)
        if shelved and shelved.reason.startswith(STUCK):
            yield _rejected(bundles[key], shelved, shelved.reason, output)
            continue
        try:
            yield _read(source, bundles[key])
        except InvalidArchive as error:
            yield _rejected(bundles[key], shelved, error.reason, output)
        except ObjectUnreadable as error:
            yield _rejected(bundles[key], shelved, reason_of(error), output)


def _rejected(info: ObjectInfo, shelved: Shelved | None, reason: str, output: ObjectStore) -> BundleContents:
    contents = BundleContents()
    if shelved and shelved.digest:
        index = BundleIndex(info.key, shelved.visible_since, output.get(index_key(shelved.digest)).body)
        for user_id, csv, image in index.entries():
            contents.csvs |= {user_id: csv} if csv else {}
            contents.images |= {user_id: (image.extension, image.etag)} if image else {}
    # The recorded reason may have a suffix about the previous version.
    told = shelved.reason if shelved and shelved.reason.startswith(reason) else reason
    contents.csvs[bundle_id(info.key)] = InvalidCsv(CsvVersion(info.key, info.etag, info.last_modified), told, None)
    return contents


def _read(source: ObjectStore, info: ObjectInfo) -> BundleContents:
    contents = BundleContents()
    source.check_readable(info.key)
    with ThreadPoolExecutor(2) as pool:
        read = partial(source.get_range, info.key, info.etag)
        try:
            archive = open_archive(info.key, RangedFile(read, info.size, pool, MOST_DIRECTORY_BYTES))
            for member in archive.members():
                if not isinstance(member.file, Ignored):
                    _add(contents, info, member, member.file)
        except PreconditionFailed:
            raise StoreUnavailable(f"{info.key} was replaced while it was read; run the check again") from None
    return contents


def _add(contents: BundleContents, info: ObjectInfo, member: Member, file: UserFile) -> None:
    etag = hashlib.md5(member.body, usedforsecurity=False).hexdigest()
    if file.is_csv:
        stored = StoredObject(member.body, etag, info.last_modified)
        contents.csvs[file.user_id] = judge(member_source(info.key, member.path), stored)
        return
    known = contents.images.get(file.user_id)
    # Among images with the same extension the last one wins, as in `IndexBuilder`.
    if known is None or IMAGE_EXTENSIONS.index(file.extension) <= IMAGE_EXTENSIONS.index(known[0]):
        contents.images[file.user_id] = file.extension, etag
