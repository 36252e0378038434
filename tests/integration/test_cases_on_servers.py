"""The inputs of `tests/cases` on a real MinIO and Redis: the rows are those of the table."""

from shared.formats.records import Person, Row
from shared.formats.source_keys import Bundle, classify_key
from tests.cases.__main__ import ALL_CASES
from tests.cases.case import Kind, format_row
from tests.integration.stepping import RowdropHarness

CSV_BODIES = {
    case.name: case.body
    for case in ALL_CASES
    if case.kind is Kind.CSV and isinstance(case.body, bytes)
}
BUNDLES = [
    case
    for case in ALL_CASES
    if case.kind is Kind.BUNDLE
    and isinstance(classify_key(case.name), Bundle)
    and not case.zip_names
]


def list_rows(rows: dict[str, Row]) -> list[str]:
    """Return rows in the form of `Outcome.rows`."""
    return [
        format_row(
            user_id,
            Person(row.first_name, row.last_name, row.birthts),
            has_image=bool(row.img_path),
        )
        for user_id, row in sorted(rows.items())
    ]


def test_csv_cases_give_same_rows_and_rejects_on_servers(rowdrop: RowdropHarness) -> None:
    for name, body in CSV_BODIES.items():
        rowdrop.put_files(name, body)
    rowdrop.process_users(*CSV_BODIES)
    expected = {case.name: case.expected for case in ALL_CASES if case.kind is Kind.CSV}
    rows = [row for outcome in expected.values() for row in outcome.rows]
    assert list_rows(rowdrop.read_rows()) == sorted(rows, key=lambda row: row.partition(",")[0])
    rejected = {name for name, outcome in expected.items() if outcome.rejects}
    assert rowdrop.read_rejects().keys() == rejected
    assert rowdrop.find_differences() == []


def test_bundle_cases_give_same_rows_on_servers(rowdrop: RowdropHarness) -> None:
    for case in BUNDLES:
        assert isinstance(case.body, bytes)
        rowdrop.source.put(case.name, case.body)
        rowdrop.process_bundles(case.name)
        assert list_rows(rowdrop.read_rows()) == list(case.expected.rows), case.name
        assert len(rowdrop.read_rejects()) == len(case.expected.rejects), case.name
        rowdrop.source.delete(case.name)
        rowdrop.process_bundles(case.name)
        assert rowdrop.read_rows() == {}, case.name
    assert rowdrop.find_differences() == []
