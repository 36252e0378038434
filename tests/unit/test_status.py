"""Tests of `worker.commands.status`: what the command line reads again."""

from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.records import Reject
from shared.formats.rejects_csv import encode_rejects
from tests.fakes import FakeObjectStore
from worker.commands.status import PublishedTables

REJECT = Reject("1.csv", "1", "broken", 2, since=0, etag="etag")


def test_published_tables_forget_missing_files() -> None:
    store = FakeObjectStore("processed-data", lambda: 0.0)
    store.put(OUTPUT_KEY, OUTPUT_HEADER + b"1,Ann,Lee,1986,\n")
    store.put(REJECTS_KEY, encode_rejects([REJECT]))
    tables = PublishedTables()
    tables.refresh(store)
    assert tables.has_row("1")
    assert list(tables.rejects) == ["1"]
    assert tables.suspicious_rows is not None
    assert tables.suspicious_rows.entry_count == 1
    store.delete_many([OUTPUT_KEY, REJECTS_KEY])
    tables.refresh(store)
    assert not tables.has_row("1")
    assert tables.rejects == {}
    assert tables.suspicious_rows is None


def test_published_tables_keep_rejects_while_file_is_invalid() -> None:
    store = FakeObjectStore("processed-data", lambda: 0.0)
    store.put(REJECTS_KEY, encode_rejects([REJECT]))
    tables = PublishedTables()
    tables.refresh(store)
    store.put(REJECTS_KEY, b"not the header\n")
    tables.refresh(store)
    assert list(tables.rejects) == ["1"]
