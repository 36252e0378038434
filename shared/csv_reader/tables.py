"""Finds the delimiter, the header and the records in the text of a CSV."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import NamedTuple

from shared.csv_reader.characters import (
    ASCII_BLANKS,
    DELIMITERS,
    NAME_SPELLING,
    SEP_LINE_DELIMITERS,
    TRIMMED,
    class_of,
    name_delimiter,
    name_delimiters,
    trim,
)
from shared.csv_reader.reasons import InvalidUserCsv, Reason

NumberedRecord = tuple[int, list[str]]
"""The 1-based line in which a record begins, and its fields."""

_SPACE = class_of(TRIMMED.translate({10: None, 13: None}))
# The line that names the delimiter, as Excel reads and writes it. The delimiter may be a blank, so
# nothing backtracks into its repetitions.
_SEP_LINE = re.compile(
    rf'\ufeff*"?sep=(\\t|[^\r\n]?)\1*+"?{_SPACE}*+(?:\r\n|\r|\n|\Z)', re.IGNORECASE
)


class Table(NamedTuple):
    """A CSV with a valid header. `text` begins in line `first_line` of the file.

    `positions` are those of the required columns. `records` continues behind the header.
    """

    text: str
    first_line: int
    delimiter: str
    header_line: int
    header: Sequence[str]
    positions: Sequence[int]
    records: Iterator[NumberedRecord]


def find_table(text: str, columns: Sequence[str]) -> Table | None:
    """Return the table under the first delimiter by which the header has all columns, if any.

    Raises `InvalidUserCsv` if a line `sep=` is wrong, or the header has a column twice.
    """
    first_line, named, text = split_sep_line(text)
    if named is None:
        return _find_table_in(text, first_line, columns)
    return _find_named_table(text, named, columns)


def split_sep_line(text: str) -> tuple[int, str | None, str]:
    """Split the line `sep=` off.

    Return the number of the next line, what the line names (None if there is no such line), and the
    rest of the text.
    """
    if "sep=" in text[:8].lower():
        match = _SEP_LINE.match(text)
        if match:
            return 2, match[1], text[match.end() :]
    return 1, None, text


def _find_table_in(text: str, first_line: int, columns: Sequence[str]) -> Table | None:
    # A delimiter that is not in the text separates nothing.
    for delimiter in [other for other in DELIMITERS if other in text] or [","]:
        table = _open_table(text, first_line, delimiter, columns)
        if table:
            return table
    return None


def _find_named_table(text: str, named: str, columns: Sequence[str]) -> Table | None:
    delimiter = "\t" if named == "\\t" else named
    if delimiter not in SEP_LINE_DELIMITERS:
        raise InvalidUserCsv(Reason.SEP_LINE, 1)
    table = _open_table(text, 2, delimiter, columns)
    if table:
        return table
    other = _find_table_in(text, 2, columns)
    if other:
        raise InvalidUserCsv(
            Reason.SEP_LINE_DISAGREES,
            1,
            named=name_delimiters(delimiter),
            used=name_delimiters(other.delimiter),
        )
    return None


def _open_table(text: str, first_line: int, delimiter: str, columns: Sequence[str]) -> Table | None:
    records = read_records(text, delimiter, first_line)
    try:
        line, header = next(records, (0, []))
    except InvalidUserCsv:
        return None
    positions = find_columns(header, columns, line)
    if positions is None:
        return None
    # Spreadsheets write empty fields behind the last column.
    while not trim(header[-1]):
        header.pop()
    return Table(text, first_line, delimiter, line, header, positions, records)


def find_columns(header: Sequence[str], columns: Sequence[str], line: int) -> Sequence[int] | None:
    """Return the positions of the columns in a header, or None if one is missing.

    Raises `InvalidUserCsv` if one appears more than once.
    """
    names = [normalize_name(name) for name in header]
    if any(name not in names for name in columns):
        return None
    for name in columns:
        if names.count(name) > 1:
            raise InvalidUserCsv(Reason.COLUMN_TWICE, line, column=name, count=names.count(name))
    return [names.index(name) for name in columns]


def normalize_name(raw_name: str) -> str:
    """Return the name of a column without blanks around it and without differences of spelling."""
    name = trim(raw_name).casefold()
    if name.isascii():
        return name.replace(" ", "_").replace("-", "_")
    return name.translate(NAME_SPELLING)


def read_records(text: str, delimiter: str, first_line: int = 1) -> Iterator[NumberedRecord]:
    """Yield each record with the line in which it begins; skip lines with only empty fields."""
    if '"' in text:
        blanks = ASCII_BLANKS if text.isascii() else TRIMMED
        text = _padded_quoted_field(delimiter, blanks).sub(itemgetter(1), text)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    line = first_line
    try:
        for fields in reader:
            if any(map(trim, fields)):
                yield line, fields
            # `line_num` is the last line that was read: a record may span several lines.
            line = first_line + reader.line_num
    except csv.Error as error:
        raise _explain_csv_error(error, delimiter, line) from None


@cache
def _padded_quoted_field(delimiter: str, blanks: str) -> re.Pattern[str]:
    """Return the pattern of a quoted field and what is trimmed around it, for the csv module.

    A quote that is not closed matches to the end of the text, and nothing backtracks, so the time
    stays linear.
    """
    end = class_of(f"{delimiter}\r\n")
    blank = class_of("".join(set(blanks) - {delimiter, "\r", "\n"}))
    return re.compile(rf'(?<![^{end[1:]}){blank}*+("(?:[^"]|"")*+"?)(?:{blank}++(?={end}|\Z))?')


def _explain_csv_error(error: csv.Error, delimiter: str, line: int) -> InvalidUserCsv:
    if "field limit" in str(error):
        return InvalidUserCsv(Reason.FIELD_LENGTH, line, length=f"{csv.field_size_limit():,}")
    if "end of data" in str(error):
        return InvalidUserCsv(Reason.QUOTE_OPEN, line)
    return InvalidUserCsv(Reason.QUOTE_FOLLOWED, line, delimiter=name_delimiter(delimiter))
