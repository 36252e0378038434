"""Rows that are valid and probably wrong: which ones, and what their reasons say."""

import unicodedata
from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.formats.output_csv import OUTPUT_HEADER, encode_row, read_table
from shared.formats.records import COLUMNS, Column, Row, UnlikelyRange
from shared.suspicious import CHECKED_COLUMNS, SuspiciousRows, find_suspicious_rows

UNIX_EPOCH = date(1970, 1, 1)
ZOE = "Zoe\u0308"
"""A decomposed name: the letter is followed by its diaeresis."""


def find(*users: tuple[str, int]) -> SuspiciousRows:
    lines = [encode_row(Row(user_id, "Ann", "Lee", birthts, "")) for user_id, birthts in users]
    return find_suspicious_rows(read_table(OUTPUT_HEADER + b"".join(lines), CHECKED_COLUMNS))


def find_reason(birthts: int) -> str:
    """Return the reason for a birth date, or an empty text."""
    entries = find(("1", birthts)).list_entries()
    assert all(entry.key == "1" for entry in entries)
    return "; ".join(entry.reason for entry in entries)


def count_ms(day: date) -> int:
    return (day - UNIX_EPOCH).days * 86_400_000


@pytest.mark.parametrize(
    ("birthts", "question"),
    [
        (946_684_799, "born 1970-01-11: are these seconds?"),
        (-1_577_923_201, "born 1969-12-13: are these seconds?"),
        (473_385_600, "born 1970-01-06: are these seconds?"),
        (31_413, "born 1970-01-01: are these days, as spreadsheets count them?"),
        (-9_000, "born 1969-12-31: are these days, as spreadsheets count them?"),
        (19_860_102, "born 1970-01-01: is this a date such as 19991231?"),
        (1986, "born 1970-01-01: is this only a year?"),
        (2_082_758_400_000, "born 2036-01-01: is this year wrong?"),
        (4_133_980_799_999, "born 2100-12-31: is this year wrong?"),
        (94_694_400_000_000, "born 4970-09-30: are these microseconds, or"),
        (-9_000_000_000_000, "born 1684-10-19: are these microseconds, or"),
        (253_402_214_400_000, "born 9999-12-31: are these microseconds, or"),
        (-62_135_596_800_000, "born 0001-01-01: are these microseconds, or"),
    ],
)
def test_suspicious_birth_asks_for_the_unit(birthts: int, question: str) -> None:
    reason = find_reason(birthts)
    assert reason.startswith(question)
    assert "replace the file by one with milliseconds since 1970; if not, keep it" in reason


@pytest.mark.parametrize("birthts", [0, 86_400_000, -3_600_000, 946_684_799_000, 1_799_999_999_999])
def test_likely_births_are_not_suspicious(birthts: int) -> None:
    assert find_reason(birthts) == ""


@settings(deadline=None)
@given(st.dates(date(1900, 1, 1), date(2034, 12, 31)), st.integers(-48, 56))
def test_no_date_in_any_time_zone_is_suspicious(day: date, quarter_hours: int) -> None:
    """A date without a time is midnight of its zone, also in the days around 1970-01-01."""
    assert find_reason(count_ms(day) - quarter_hours * 900_000) == ""


@settings(deadline=None)
@given(st.dates(date(1900, 1, 1), date(2034, 12, 31)))
def test_dates_in_other_units_are_suspicious(day: date) -> None:
    milliseconds = count_ms(day)
    seconds = milliseconds // 1000
    serial_number = (day - date(1899, 12, 30)).days
    written = int(day.strftime("%Y%m%d"))
    units = {day.year: "year", written: "date such as", serial_number: "days", seconds: "seconds"}
    for value, words in units.items():
        # Seconds that are a quarter of an hour in ms are missed, one of 125 midnights.
        if value % 900_000:
            assert find_reason(value)
            # Some days of 1970 in seconds are written like a date, or like a number of days.
            assert words in find_reason(value) or abs(value) < 22_000_000
    # Near 1970-01-01, microseconds look like milliseconds of another birth date.
    is_near = abs(day - UNIX_EPOCH) < timedelta(days=100)
    if date(1968, 2, 1) < day < date(1978, 1, 1) and not is_near:
        assert "microseconds" in find_reason(milliseconds * 1000)


def test_look_alike_ids_are_all_listed() -> None:
    composed = unicodedata.normalize("NFC", ZOE)
    other = f"x{ZOE}"
    entries = find((ZOE, 0), ("ann", 0), (other, 0), (composed, 0), ("\u00e9", 0)).list_entries()
    assert [entry.key for entry in entries] == [ZOE, composed]
    assert {entry.reason for entry in entries} == {
        "looks the same as another user ID (different Unicode form); rename one, or keep both if "
        "these are two users"
    }


def test_look_alike_of_ascii_id_is_listed() -> None:
    """The sign for kelvin becomes the letter K. No other letter than its own looks like it."""
    entries = find(("K", 0), ("k", 0), ("\u2126", 0), ("\u212a", 0)).list_entries()
    assert [entry.key for entry in entries] == ["K", "\u212a"]


def test_look_alikes_without_a_composed_one_are_listed() -> None:
    """The same two marks in another order."""
    entries = find(("s\u0307\u0323", 0), ("s\u0323", 0), ("s\u0323\u0307", 0)).list_entries()
    assert [entry.key for entry in entries] == ["s\u0307\u0323", "s\u0323\u0307"]


def test_suspicious_rows_are_listed_by_page_in_table_order() -> None:
    users = [(f"{number:03}", (0, 1999)[number % 2]) for number in range(100)]
    rows = find(*users, (ZOE, 1986), (unicodedata.normalize("NFC", ZOE), 0))
    assert rows.find_reason("001") == rows.list_entries(slice(0, 1))[0].reason
    assert rows.find_reason("000") is None
    entries = rows.list_entries()
    assert len(entries) == rows.entry_count == 53
    assert [entry.key for entry in entries[:50]] == [f"{number:03}" for number in range(1, 100, 2)]
    # One row has two suspicions: it is listed for each.
    assert [entry.key for entry in entries[50:52]] == [ZOE, ZOE]
    assert rows.list_entries(slice(48, 51)) == entries[48:51]
    assert rows.list_entries(slice(53, 60)) == rows.list_entries(slice(9, 3)) == []


def test_empty_table_has_no_suspicious_rows() -> None:
    assert (find().entry_count, find().list_entries()) == (0, [])


def test_suspicions_follow_another_table_of_columns() -> None:
    columns = (
        Column("sku", "string", "the key", "1"),
        Column(
            "grams",
            "integer",
            "the weight",
            500,
            suspicions=(UnlikelyRange(1, 9, "are these kilograms?", except_multiples_of=5),),
        ),
    )
    table = pa.table({"sku": ["a", "b", "c", "d"], "grams": [500, 3, 5, 9]})
    entries = find_suspicious_rows(table, columns).list_entries()
    assert entries == [("b", "are these kilograms?"), ("d", "are these kilograms?")]


def test_checked_columns_begin_with_the_key() -> None:
    assert CHECKED_COLUMNS[0] == COLUMNS[0].name
