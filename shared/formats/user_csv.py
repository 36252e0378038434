"""Parses one user's CSV, or raises `InvalidUserCsv` with a reason for the author of the file.

A reason is published. It names required columns, positions and numbers, and never quotes the
file, which may be of another system. `quote_line` is for clients that may read files.

A valid CSV has a header with the three columns of `REQUIRED_COLUMNS`, in any order and with some
freedom in the spelling, and exactly one record. A line with only empty fields is not a record:
spreadsheets leave such lines behind. All functions are pure.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from shared.formats.records import Person

MAX_CSV_BYTES = 1_000_000
"""A larger file is rejected without being parsed."""
REQUIRED_COLUMNS = ("first_name", "last_name", "birthts")
MIN_BIRTHTS = -62_135_596_800_000
"""The first millisecond of 0001-01-01, in ms since 1970 UTC."""
MAX_BIRTHTS = 253_402_300_799_999
"""The last millisecond of 9999-12-31, in ms since 1970 UTC."""

MAX_QUOTE_LENGTH = 200
"""Maximum characters of a line that `quote_line` returns."""
MAX_COUNTED_RECORDS = 100
"""Records are counted up to this number; for a file with more the reason says "more than"."""

# A quoted field with the blanks around it, which the csv module does not accept. A quote that is
# not closed matches to the end of the text, and `*+` never backtracks, so the time stays linear.
_PADDED_QUOTED_FIELD = re.compile(
    r'(?:(?<![^,\r\n])[ \t]+)?("(?:[^"]|"")*+"?)(?:[ \t]+(?=[,\r\n]|\Z))?'
)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

NumberedRecord = tuple[int, list[str]]
"""The 1-based line in which a record begins, and its fields."""


class InvalidUserCsv(Exception):
    """The CSV is not valid.

    `reason` gets into rejects.csv, and contains nothing of the file. `line` is 1-based, None if the
    reason concerns the whole file.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def parse_person(body: bytes) -> Person:
    """Parse the bytes of a user's CSV.

    Raises `InvalidUserCsv`, and nothing else for any bytes.
    """
    if len(body) > MAX_CSV_BYTES:
        raise InvalidUserCsv(f"larger than {MAX_CSV_BYTES:,} bytes")
    records = _read_records(_decode(body))
    header_line, header = next(records, (0, []))
    if not header_line:
        raise InvalidUserCsv("the file is empty")
    positions = _find_columns(header, header_line)
    line, fields = _take_single_record(records, header_line)
    _check_field_count(fields, header, line)
    first_name, last_name, birthts = (
        _clean_field(fields[positions[name]], name, line) for name in REQUIRED_COLUMNS
    )
    return Person(first_name, last_name, _parse_birthts(birthts, line))


def _decode(body: bytes) -> str:
    # UTF-16 without a byte order mark is not recognised; its NUL characters are rejected below.
    is_utf16 = body.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "UTF-16" if is_utf16 else "UTF-8"
    try:
        text = body.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = None if is_utf16 else _line_number_after(body[: error.start].decode())
        raise InvalidUserCsv(
            f"not {encoding} at byte {error.start + 1}; save it as UTF-8", line
        ) from None
    if "\0" in text:
        reason = "a NUL character; if it is UTF-16 without a byte order mark, save it as UTF-8"
        raise InvalidUserCsv(reason, _line_number_after(text[: text.index("\0")]))
    return text


def _line_number_after(text_before: str) -> int:
    return len(_LINE_BREAK.findall(text_before)) + 1


def _read_records(text: str) -> Iterator[NumberedRecord]:
    """Yield each record with the line in which it begins; skip blank lines."""
    reader = csv.reader(
        io.StringIO(_PADDED_QUOTED_FIELD.sub(r"\1", text), newline=""),
        strict=True,
        skipinitialspace=True,
    )
    line = 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield line, fields
            # `line_num` is the last line that was read: a record may span several lines.
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidUserCsv(_explain_csv_error(error), line) from None


def _explain_csv_error(error: csv.Error) -> str:
    if "field limit" in str(error):
        max_length = csv.field_size_limit()
        return f"a field is longer than {max_length:,} characters, or a quote is not closed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return "a quoted field is followed by something else than a comma"


def _find_columns(header: Sequence[str], line: int) -> dict[str, int]:
    names = [_normalize_column_name(name) for name in header]
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise InvalidUserCsv(_missing_columns_reason(missing, header), line)
    for name in REQUIRED_COLUMNS:
        if names.count(name) > 1:
            raise InvalidUserCsv(f"column {name} appears {names.count(name)} times", line)
    return {name: names.index(name) for name in REQUIRED_COLUMNS}


def _normalize_column_name(raw_name: str) -> str:
    return raw_name.strip().casefold().replace(" ", "_").replace("-", "_")


def _missing_columns_reason(missing: Sequence[str], header: Sequence[str]) -> str:
    # Spreadsheets in many countries export with another separator, so the reason names it.
    header_text = ",".join(header)
    for separator, name in (";", "';'"), ("\t", "tab"), ("|", "'|'"):
        names = map(_normalize_column_name, header_text.split(separator))
        if set(REQUIRED_COLUMNS) <= set(names):
            return f"looks {name}-separated; separate the fields by commas"
    found = [name for name in REQUIRED_COLUMNS if name not in missing]
    other_count = len(header) - len(found)
    parts = [*found, f"{other_count} other {'column' if other_count == 1 else 'columns'}"]
    columns = "column" if len(missing) == 1 else "columns"
    return f"missing {columns} {', '.join(missing)}; the header has {' and '.join(parts)}"


def _take_single_record(records: Iterator[NumberedRecord], header_line: int) -> NumberedRecord:
    first = next(records, None)
    if first is None:
        raise InvalidUserCsv("only a header, no record", header_line)
    second = next(records, None)
    if second:
        count = 2 + sum(1 for _ in islice(records, MAX_COUNTED_RECORDS - 1))
        count_text = f"more than {MAX_COUNTED_RECORDS}" if count > MAX_COUNTED_RECORDS else count
        raise InvalidUserCsv(f"{count_text} records instead of one", second[0])
    return first


def _check_field_count(fields: Sequence[str], header: Sequence[str], line: int) -> None:
    if len(fields) < len(header):
        name = _normalize_column_name(header[len(fields)])
        column = f"column {len(fields) + 1} of {len(header)}"
        shown = f"{name}, {column}" if name in REQUIRED_COLUMNS else column
        raise InvalidUserCsv(f"missing value for {shown}", line)
    if len(fields) != len(header):
        raise InvalidUserCsv(
            f"{len(fields)} fields, but the header has {len(header)} columns", line
        )


def _clean_field(raw_value: str, name: str, line: int) -> str:
    field = raw_value.strip()
    if _LINE_BREAK.search(field):
        raise InvalidUserCsv(f"{name}: a line break inside the field", line)
    return field


def _parse_birthts(raw_value: str, line: int) -> int:
    if not raw_value:
        raise InvalidUserCsv("birthts: empty", line)
    # Not `isdigit` and not only `int`, which accept other scripts, underscores and "+".
    if not re.fullmatch(r"-?[0-9]{1,15}", raw_value):
        raise InvalidUserCsv(
            "birthts: not a whole number of milliseconds (at most 15 digits)", line
        )
    birthts = int(raw_value)
    if not MIN_BIRTHTS <= birthts <= MAX_BIRTHTS:
        raise InvalidUserCsv("birthts: not in the years 1 to 9999", line)
    return birthts


def quote_line(body: bytes, line: int) -> str:
    """Return the beginning of a line, at most `MAX_QUOTE_LENGTH` characters, for any bytes.

    `line` is 1-based. The result is empty if `body`, which may be the beginning of a file, has no
    such line.
    """
    encoding = "UTF-16" if body.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"
    text = body.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = _LINE_BREAK.split(text, maxsplit=line)
    return excerpt(lines[line - 1], MAX_QUOTE_LENGTH) if line <= len(lines) else ""


def excerpt(text: str, max_length: int = 40) -> str:
    """Shorten `text` to `max_length` characters on one line.

    Unprintable characters become "?".
    """
    short = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return "".join(character if character.isprintable() else "?" for character in short)
