"""Read one user's CSV, or say why not, in words for the person who wrote it.  Pure.

A header that names our three columns, in any order and spelled with some freedom, and exactly one record.  A line in
which every field is empty is no record: spreadsheets leave such lines behind.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from shared.records import Person

MAX_CSV_BYTES = 1_000_000
COLUMNS = ("first_name", "last_name", "birthts")
MIN_BIRTHTS, MAX_BIRTHTS = -62_135_596_800_000, 253_402_300_799_999
"""0001-01-01 and the last millisecond of 9999, in ms since 1970 UTC."""

MOST_QUOTED = 40
"""So many characters of a user's file may appear in a reason."""
MOST_COUNTED = 100
"""Of a file with more records than this it is enough to know that."""

# A quoted field with the blanks around it, which the csv module would not take.  A quote that nothing closes matches to
# the end, so that the time stays linear.
_QUOTED = re.compile(r'(?:(?<![^,\r\n])[ \t]+)?("(?:[^"]|"")*+"?)(?:[ \t]+(?=[,\r\n]|\Z))?')
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

Record = tuple[int, list[str]]


class InvalidUserFile(Exception):
    """A CSV that cannot be used: the `reason`, and the 1-based `line`, None when the whole file is meant."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


def parse(body: bytes) -> Person:
    """The person of a user's CSV.  Raises `InvalidUserFile`, and nothing else, whatever the bytes."""
    if len(body) > MAX_CSV_BYTES:
        raise InvalidUserFile(f"larger than {MAX_CSV_BYTES:,} bytes")
    records = _records(_decoded(body))
    header_line, header = next(records, (0, []))
    if not header_line:
        raise InvalidUserFile("the file is empty")
    positions = _positions(header, header_line)
    line, fields = _only(records, header_line)
    _check_length(fields, header, line)
    first_name, last_name, birthts = (_field(fields[positions[name]], name, line) for name in COLUMNS)
    return Person(first_name, last_name, _birthts(birthts, line))


def _decoded(body: bytes) -> str:
    utf16 = body.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "UTF-16" if utf16 else "UTF-8"
    try:
        text = body.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = None if utf16 else _line_of(body[: error.start].decode())
        raise InvalidUserFile(f"not {encoding} at byte {error.start + 1}; save it as UTF-8", line) from None
    if "\0" in text:
        reason = "a NUL character; if it is UTF-16 without a byte order mark, save it as UTF-8"
        raise InvalidUserFile(reason, _line_of(text[: text.index("\0")]))
    return text


def _line_of(text_before: str) -> int:
    return len(_LINE_BREAK.findall(text_before)) + 1


def _records(text: str) -> Iterator[Record]:
    """Each record with the line it begins in; blank lines are none."""
    reader = csv.reader(io.StringIO(_QUOTED.sub(r"\1", text), newline=""), strict=True, skipinitialspace=True)
    line = 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidUserFile(_in_our_words(error), line) from None


def _in_our_words(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a field is longer than {csv.field_size_limit():,} characters, or a quote is not closed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return "a quoted field is followed by something else than a comma"


def _positions(header: Sequence[str], line: int) -> dict[str, int]:
    names = [_column_name(name) for name in header]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InvalidUserFile(_why_missing(missing, header), line)
    for name in COLUMNS:
        if names.count(name) > 1:
            raise InvalidUserFile(f"column {name} appears {names.count(name)} times", line)
    return {name: names.index(name) for name in COLUMNS}


def _column_name(written: str) -> str:
    return written.strip().casefold().replace(" ", "_").replace("-", "_")


def _why_missing(missing: Sequence[str], header: Sequence[str]) -> str:
    for separator, name in (";", "';'"), ("\t", "tab"), ("|", "'|'"):
        if set(COLUMNS) <= set(map(_column_name, ",".join(header).split(separator))):
            return f"looks {name}-separated; separate the fields by commas"
    columns = "column" if len(missing) == 1 else "columns"
    return f"missing {columns} {', '.join(missing)}; found: {excerpt(', '.join(map(str.strip, header)))}"


def _only(people: Iterator[Record], header_line: int) -> Record:
    first = next(people, None)
    if first is None:
        raise InvalidUserFile("only a header, no record", header_line)
    second = next(people, None)
    if second:
        count = 2 + sum(1 for _ in islice(people, MOST_COUNTED - 1))
        many = f"more than {MOST_COUNTED}" if count > MOST_COUNTED else count
        raise InvalidUserFile(f"{many} records instead of one", second[0])
    return first


def _check_length(fields: Sequence[str], header: Sequence[str], line: int) -> None:
    missing = "" if len(fields) >= len(header) else header[len(fields)].strip()
    if missing:
        raise InvalidUserFile(f"missing value for {excerpt(missing)}", line)
    if len(fields) != len(header):
        raise InvalidUserFile(f"{len(fields)} fields, but the header has {len(header)} columns", line)


def _field(written: str, name: str, line: int) -> str:
    field = written.strip()
    if _LINE_BREAK.search(field):
        raise InvalidUserFile(f"{name}: a line break inside the field", line)
    return field


def _birthts(written: str, line: int) -> int:
    if not written:
        raise InvalidUserFile("birthts: empty", line)
    if not re.fullmatch(r"-?[0-9]{1,15}", written):
        reason = f"birthts: not a whole number of milliseconds (at most 15 digits): '{excerpt(written)}'"
        raise InvalidUserFile(reason, line)
    birthts = int(written)
    if not MIN_BIRTHTS <= birthts <= MAX_BIRTHTS:
        raise InvalidUserFile(f"birthts: not in the years 1 to 9999: '{written}'", line)
    return birthts


def excerpt(text: str) -> str:
    """At most `MOST_QUOTED` characters of it, on one line."""
    short = text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 1]}…"
    return "".join(character if character.isprintable() else "?" for character in short)
