"""Runs an input through the code that the worker uses, with object stores in memory."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from minio import Minio
from redis import Redis

from shared.formats.records import CsvResult, Person, ValidCsv
from shared.formats.source_keys import Bundle, IgnoredFile, UserFile, classify_key, make_csv_key
from shared.progress.leases import Lease
from shared.suspicious import find_suspicious_rows
from tests.cases.case import Case, Entry, Folder, Kind, Outcome, format_row
from tests.fakes import FakeObjectStore
from worker.bundles.catalog import BundleRules
from worker.bundles.index import BundleIndex
from worker.bundles.members import IgnoredMember, InvalidArchive
from worker.bundles.unpacked_folders import DEFAULT_MAX_BYTES, DiskBudget, UnpackedFolders
from worker.commands.load import Loader, make_plan
from worker.jobs.entry_builder import ArchiveUnpacker
from worker.reading.csv_parsing import CsvReader, parse_csv

MODIFIED = 1_795_638_688.0
"""LastModified of all objects, in Unix seconds."""


class HeldLease(Lease):
    """A lease that this process always holds; it needs no Redis."""

    def __init__(self) -> None:
        super().__init__(Redis(), "unpack")

    def renew(self) -> None:
        """Do nothing."""


class CaseRunner:
    """Runs inputs one after another. Use it in a `with` statement.

    `zip_names` is the setting ZIP_NAMES, for inputs that declare none.
    """

    def __init__(self, zip_names: str = "") -> None:
        self._pool = ThreadPoolExecutor(2)
        self._zip_names = zip_names

    def __enter__(self) -> "CaseRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run_case(self, case: Case) -> Outcome:
        """Return what becomes of a declared input."""
        if not isinstance(case.body, bytes):
            with TemporaryDirectory() as folder:
                write_folder(Path(folder), case.body)
                return self.run_folder(Path(folder))
        key = f"{case.name}.csv" if case.kind is Kind.CSV else case.name
        return self.run_object(key, case.body, case.zip_names)

    def run_file(self, kind: Kind, path: Path) -> Outcome:
        """Return what becomes of a file or folder on the disk."""
        if kind is Kind.FOLDER:
            return self.run_folder(path)
        return self.run_object(path.name, path.read_bytes())

    def run_folder(self, folder: Path) -> Outcome:
        """Return what becomes of a folder that is loaded into an empty bucket."""
        source = _create_store()
        plan = make_plan(folder)
        Loader(source, Minio("localhost:1"), lambda _: None, by_tar=False).load(plan)
        skipped = [Entry(str(path), reason) for path, reason in [*plan.skipped, *plan.junk]]
        return self._describe_bucket(source, skipped)

    def run_object(self, key: str, body: bytes, zip_names: str = "") -> Outcome:
        """Return what becomes of one object in the source bucket; its own lines have no name."""
        source = _create_store()
        source.put(key, body)
        return self._describe_bucket(source, [], zip_names, own_name=key)

    def _describe_bucket(
        self,
        source: FakeObjectStore,
        skipped: Iterable[Entry],
        zip_names: str = "",
        own_name: str = "",
    ) -> Outcome:
        """Describe what becomes of the objects; that with the key `own_name` has no name."""
        rejects: list[Entry] = []
        ignored = list(skipped)
        csvs = dict[str, CsvResult]()
        images = set[str]()
        reader = CsvReader(source, parse_csv)
        # Bundles first: a user's own files replace theirs.
        for key in sorted(source.objects, key=_sort_bundles_first):
            match classify_key(key):
                case UserFile(user_id, "csv"):
                    csvs[user_id] = reader.read_csv(user_id)
                case UserFile(user_id):
                    images.add(user_id)
                case Bundle():
                    try:
                        index, members = self._unpack(source, key, zip_names or self._zip_names)
                    except InvalidArchive as error:
                        rejects.append(Entry("" if key == own_name else key, error.reason))
                        continue
                    ignored += [Entry(member.path, member.reason) for member in members]
                    for user_id, csv, image in index.iterate_users():
                        csvs[user_id] = csv
                        images |= {user_id} if image else set()
                case IgnoredFile(reason):
                    ignored.append(Entry("" if key == own_name else key, reason))
        rows: list[str] = []
        table = dict[str, Person]()
        for user_id, result in sorted(csvs.items()):
            if isinstance(result, ValidCsv):
                table[user_id] = result.person
                has_image = user_id in images
                rows.append(format_row(user_id, result.person, has_image=has_image))
            elif result:
                line = f"line {result.line}: " if result.line else ""
                name = "" if make_csv_key(user_id) == own_name else user_id
                rejects.append(Entry(name, f"{line}{result.reason}"))
        suspicious = [
            Entry("" if make_csv_key(row.key) == own_name else row.key, row.reason)
            for row in find_suspicious_rows(_make_table(table)).list_entries()
        ]
        return Outcome(tuple(rows), tuple(rejects), tuple(ignored), tuple(suspicious))

    def _unpack(
        self, source: FakeObjectStore, key: str, zip_names: str
    ) -> tuple[BundleIndex, list[IgnoredMember]]:
        folders = UnpackedFolders(_create_store(), HeldLease(), rules=BundleRules(zip_names))
        info = source.get_info(key)
        assert info
        unpacker = ArchiveUnpacker(source, folders, self._pool)
        budget = DiskBudget(DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES)
        entry, ignored = unpacker.unpack_archive(info, "digest", budget, lambda *_: None)
        index = folders.read_index(entry.digest)
        assert index
        return index, ignored.list_named()


def _create_store() -> FakeObjectStore:
    return FakeObjectStore("bucket", lambda: MODIFIED)


def _sort_bundles_first(key: str) -> tuple[bool, str]:
    return not isinstance(classify_key(key), Bundle), key


def _make_table(people: Mapping[str, Person]) -> pa.Table:
    """Return the columns of the published table that have rules for suspicious rows."""
    birth_dates = [person.birthts for person in people.values()]
    return pa.table(
        {
            "user_id": pa.array(people, pa.string()),
            "birthts": pa.array(birth_dates, pa.int64()),
        }
    )


def write_folder(folder: Path, files: Folder) -> None:
    """Write the files and symbolic links below the folder."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(body, str):
            path.symlink_to(body)
        else:
            path.write_bytes(body)
