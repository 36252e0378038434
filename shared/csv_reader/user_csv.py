"""Parses one user's CSV, or raises `InvalidUserCsv` with a reason for the author of the file.

A valid CSV has a header with the three columns of `REQUIRED_COLUMNS`, in any order and with some
freedom in the spelling, and exactly one record. docs/formats.md has the rules.
"""

from itertools import islice

from shared.csv_reader.characters import name_delimiter, trim
from shared.csv_reader.decoding import LINE_BREAK, decode_csv
from shared.csv_reader.diagnosis import reject_record, reject_text
from shared.csv_reader.milliseconds import parse_milliseconds
from shared.csv_reader.reasons import InvalidUserCsv, Reason
from shared.csv_reader.tables import NumberedRecord, Table, find_table
from shared.formats.records import Person

REQUIRED_COLUMNS = ("first_name", "last_name", "birthts")
MAX_COUNTED_RECORDS = 100
"""Records are counted up to this number; for a file with more the reason says "more than"."""


def parse_person(body: bytes) -> Person:
    """Parse the bytes of a user's CSV.

    Raises `InvalidUserCsv`, and nothing else for any bytes.
    """
    text = decode_csv(body)
    table = find_table(text, REQUIRED_COLUMNS)
    if table is None:
        reject_text(text, REQUIRED_COLUMNS)
    try:
        return _parse_record(table)
    except InvalidUserCsv as error:
        reject_record(error, table, REQUIRED_COLUMNS)
        raise


def _parse_record(table: Table) -> Person:
    line, fields = _take_single_record(table)
    _check_field_count(fields, table, line)
    first_name, last_name, birthts = (
        _clean_field(fields[position], name, line)
        for position, name in zip(table.positions, REQUIRED_COLUMNS, strict=True)
    )
    return Person(first_name, last_name, parse_milliseconds(birthts, "birthts", line))


def _take_single_record(table: Table) -> NumberedRecord:
    first = next(table.records, None)
    if first is None:
        raise InvalidUserCsv(Reason.NO_RECORD, table.header_line)
    second = next(table.records, None)
    if second:
        count = 2 + sum(1 for _ in islice(table.records, MAX_COUNTED_RECORDS - 1))
        count_text = f"more than {MAX_COUNTED_RECORDS}" if count > MAX_COUNTED_RECORDS else count
        raise InvalidUserCsv(Reason.RECORD_COUNT, second[0], count=count_text)
    return first


def _check_field_count(fields: list[str], table: Table, line: int) -> None:
    column_count = len(table.header)
    # Spreadsheets write empty fields behind the last column.
    while len(fields) > column_count and not trim(fields[-1]):
        fields.pop()
    if len(fields) > column_count:
        raise InvalidUserCsv(
            Reason.SURPLUS_FIELDS,
            line,
            count=len(fields),
            columns=column_count,
            delimiter=name_delimiter(table.delimiter),
        )
    for position, name in sorted(zip(table.positions, REQUIRED_COLUMNS, strict=True)):
        if position >= len(fields):
            raise InvalidUserCsv(
                Reason.MISSING_VALUE,
                line,
                column=name,
                position=position + 1,
                columns=column_count,
            )


def _clean_field(raw_value: str, name: str, line: int) -> str:
    field = trim(raw_value)
    if LINE_BREAK.search(field):
        raise InvalidUserCsv(Reason.LINE_BREAK, line, column=name)
    return field
