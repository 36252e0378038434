"""The format of output.csv, and the published table held as the bytes of that file. Pure.

The format is UTF-8 with LF line endings and RFC 4180 quoting only where required. A field contains
no line break, so one line is one record. Lines are sorted by user ID by code point, which is also
the order of the IDs' UTF-8 bytes. A user is therefore found by binary search in the bytes, and a
million rows need no more memory than the file itself.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from shared.formats.records import COLUMNS, Row
from shared.formats.source_keys import UserFile, classify_key, make_csv_key

if TYPE_CHECKING:
    import pandas as pd

OUTPUT_COLUMNS = tuple(column.name for column in COLUMNS)
OUTPUT_HEADER = (",".join(OUTPUT_COLUMNS) + "\n").encode()

_TEXT_TYPE = pa.large_string()
_ARROW_TYPES = {"string": _TEXT_TYPE, "integer": pa.int64()}
_COLUMN_TYPES = {column.name: _ARROW_TYPES[column.type] for column in COLUMNS}
# pyarrow requires that each line fits into one block. A user's CSV has at most 1,000,000 bytes, and
# UTF-16 text may grow by half when it is encoded in UTF-8.
_BLOCK_BYTES = 4 << 20

_QUOTED_FIELD = re.compile(rb'"([^"]*(?:""[^"]*)*)"')
_NEXT_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",]*)),')
_INTEGER = re.compile(r"-?[0-9]{1,15}")


class InvalidOutputCsv(ValueError):
    """The bytes are not a valid output.csv; the message says what is wrong, and where."""


def encode_row(row: Row) -> bytes:
    """Return the line of a row, including its LF.

    Raises `ValueError` if a field contains a line break or cannot be encoded in UTF-8.
    """
    fields = (row.user_id, row.first_name, row.last_name, str(row.birthts), row.img_path)
    line = ",".join(fields)
    if "\n" in line or "\r" in line:
        raise ValueError("a field contains a line break")
    # Fast path: quoting is only needed if a field contains a quote or a comma.
    if '"' in line or line.count(",") != len(fields) - 1:
        line = ",".join(map(_quote_field, fields))
    return f"{line}\n".encode()


def _quote_field(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if '"' in field or "," in field else field


def decode_row(line: bytes) -> Row:
    """Parse one line, with or without its LF. Raises `InvalidOutputCsv`."""
    try:
        text = line.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise InvalidOutputCsv(f"not UTF-8 at byte {error.start + 1} of the line") from None
    fields = text.split(",") if '"' not in text else _split_quoted_line(text)
    if len(fields) != len(OUTPUT_COLUMNS) or "\n" in text or "\r" in text:
        raise InvalidOutputCsv(f"the line does not have {len(OUTPUT_COLUMNS)} fields")
    if not _INTEGER.fullmatch(fields[3]):
        raise InvalidOutputCsv("birthts is not a whole number")
    return Row(fields[0], fields[1], fields[2], int(fields[3]), fields[4])


def _split_quoted_line(text: str) -> list[str]:
    fields = list[str]()
    position = 0
    terminated_text = f"{text},"
    while position < len(terminated_text):
        match = _NEXT_FIELD.match(terminated_text, position)
        if match is None:
            raise InvalidOutputCsv("a quote is misplaced")
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        position = match.end()
    return fields


class OutputCsv:
    """An immutable output.csv, sorted and without duplicates.

    Use `repair` for a file that may have been edited by hand.
    """

    __slots__ = ("_row_count", "body")

    body: bytes

    def __init__(self, body: bytes = OUTPUT_HEADER) -> None:
        """Wrap the bytes unchanged.

        Raises `InvalidOutputCsv` if the header is not `OUTPUT_HEADER` or the last line has no LF.
        """
        if not body.startswith(OUTPUT_HEADER):
            raise InvalidOutputCsv(f"line 1 is not {OUTPUT_HEADER.decode().rstrip()}")
        if not body.endswith(b"\n"):
            raise InvalidOutputCsv("the last line has no line ending")
        self.body = body
        self._row_count: int | None = None

    @classmethod
    def repair(cls, body: bytes) -> "OutputCsv":
        """Normalize a file that may have been edited by hand to the form that the publisher writes.

        Lines may be in any order. Lines that are not a row of a valid user are dropped; if a user
        has several lines, the last one is kept. Without the header the result is empty. A canonical
        file is returned with the same `body`; the check takes half a second per million rows.
        """
        if is_canonical(body):
            return cls(body)
        lines: dict[str, bytes] = {}
        # Spreadsheet programs write a byte order mark and CRLF.
        header_line, *other_lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if header_line.removesuffix(b"\r") + b"\n" == OUTPUT_HEADER:
            for line in other_lines:
                row = _decode_or_none(line.removesuffix(b"\r"))
                if row:
                    lines[row.user_id] = encode_row(row)
        return cls(OUTPUT_HEADER + b"".join(lines[user_id] for user_id in sorted(lines)))

    @property
    def row_count(self) -> int:
        """The number of rows."""
        if self._row_count is None:
            self._row_count = self.body.count(b"\n") - 1
        return self._row_count

    def get(self, user_id: str) -> Row | None:
        """Return a user's row, or None. Raises `InvalidOutputCsv` if that line is not valid."""
        start, end = self._find_line(user_id.encode(), len(OUTPUT_HEADER))
        return decode_row(self.body[start:end]) if end > start else None

    def find_line_start(self, user_id: str) -> int | None:
        """Return the offset of the user's line in `body`, or None if there is no such line."""
        start, end = self._find_line(user_id.encode(), len(OUTPUT_HEADER))
        return start if end > start else None

    def iterate_rows(self) -> Iterator[Row]:
        """Iterate over all rows, in order. Raises `InvalidOutputCsv` at an invalid line."""
        lines = io.BytesIO(self.body)
        lines.seek(len(OUTPUT_HEADER))
        return map(decode_row, lines)

    def with_changes(self, changes: Mapping[str, Row | None]) -> "OutputCsv":
        """Return a table with these users' rows replaced, or removed if None.

        Returns `self` if nothing changes. The bytes are copied once, and only the IDs on the path
        of the binary search are parsed. Raises `ValueError` if a row cannot be encoded, or belongs
        to another user.
        """
        body_view = memoryview(self.body)
        pieces = list[bytes | memoryview]()
        row_count = self.row_count
        copied_until = 0
        position = len(OUTPUT_HEADER)
        for user_id, row in sorted(changes.items()):
            if row and row.user_id != user_id:
                raise ValueError("a row is stored under another user's ID")
            line = encode_row(row) if row else b""
            # The changes are sorted, so each search begins where the previous one ended.
            start, position = self._find_line(user_id.encode(), position)
            if body_view[start:position] != line:
                pieces += body_view[copied_until:start], line
                copied_until = position
                row_count += bool(line) - (position > start)
        if not pieces:
            return self
        body = b"".join([*pieces, body_view[copied_until:]])
        return _build_with_row_count(body, row_count)

    def _find_line(self, user_id: bytes, low: int) -> tuple[int, int]:
        """Return the start and end of the user's line, searching from the offset `low`.

        If there is no such line, both are the offset where it would be inserted.
        """
        body = self.body
        high = len(self.body)
        while low < high:
            midpoint = (low + high) // 2
            start = body.rfind(b"\n", low, midpoint) + 1 or low
            end = body.index(b"\n", midpoint) + 1
            line_id = _parse_user_id(body, start, end)
            if line_id == user_id:
                return start, end
            if line_id < user_id:
                low = end
            else:
                high = start
        return low, low


def _build_with_row_count(body: bytes, row_count: int) -> OutputCsv:
    output = OutputCsv(body)
    # The caller has counted the rows, so `row_count` need not scan the bytes.
    output._row_count = row_count
    return output


def _parse_user_id(body: bytes, start: int, end: int) -> bytes:
    match = _QUOTED_FIELD.match(body, start, end) if body[start] == ord('"') else None
    if match:
        return match[1].replace(b'""', b'"')
    return body[start : body.find(b",", start, end)]


def _decode_or_none(line: bytes) -> Row | None:
    try:
        row = decode_row(line)
    except InvalidOutputCsv:
        return None
    return row if isinstance(classify_key(make_csv_key(row.user_id)), UserFile) else None


def read_table(body: bytes, names: Sequence[str] = OUTPUT_COLUMNS) -> pa.Table:
    """Parse an output.csv into Arrow columns: text unchanged ("0001", "NA"), `birthts` as int64.

    `names` are the columns of the table. Raises `InvalidOutputCsv` unless every line is a row.
    """
    OutputCsv(body)  # raises for a wrong header or an unfinished last line
    # pyarrow refuses a file without rows.
    if len(body) == len(OUTPUT_HEADER):
        return pa.schema(_COLUMN_TYPES).empty_table().select(list(names))
    options = _build_reader_options(use_threads=True, names=names)
    try:
        return pa_csv.read_csv(pa.BufferReader(body), **options)
    except pa.ArrowInvalid:  # its message quotes the line, and names must not be logged
        raise InvalidOutputCsv("a line is not a row") from None


def read_frame(body: bytes) -> "pd.DataFrame":
    """Parse an output.csv into a DataFrame, as `read_table` does."""
    frame: pd.DataFrame = read_table(body).to_pandas()
    return frame


def is_canonical(body: bytes) -> bool:
    """Return whether the bytes are canonical, that is, exactly as the publisher writes them.

    Canonical means: header, sorted, no duplicates, minimal quoting. Reads every line at half a
    second per million rows, with a few MB in memory at a time.
    """
    if not body.startswith(OUTPUT_HEADER):
        return False
    buffer = pa.py_buffer(body)
    position = len(OUTPUT_HEADER)
    last_user_id = ""
    if buffer.size == position:
        return True
    options = _build_reader_options(use_threads=False)
    try:
        for batch in pa_csv.open_csv(pa.BufferReader(body), **options):
            if not batch.num_rows:
                continue  # only blank lines, which are not canonical: a comparison below fails
            lines = _encode_lines(batch)
            end = position + lines.size
            if end > buffer.size or not buffer.slice(position, lines.size).equals(lines):
                return False
            if not _is_ascending(batch["user_id"], last_user_id):
                return False
            position = end
            last_user_id = batch["user_id"][-1].as_py()
    except pa.ArrowInvalid:
        return False
    return bool(position == buffer.size)


def _build_reader_options(
    *, use_threads: bool, names: Sequence[str] = OUTPUT_COLUMNS
) -> dict[str, Any]:
    return {
        "read_options": pa_csv.ReadOptions(
            column_names=OUTPUT_COLUMNS,
            skip_rows=1,
            block_size=_BLOCK_BYTES,
            use_threads=use_threads,
        ),
        # "NA" and the empty string are valid text, not missing values.
        "convert_options": pa_csv.ConvertOptions(
            column_types=_COLUMN_TYPES,
            null_values=[],
            strings_can_be_null=False,
            include_columns=list(names),
        ),
    }


def _is_ascending(user_ids: pa.Array, last_user_id: str) -> bool:
    if pc.any(pc.match_substring_regex(user_ids, r"[\x00-\x1f\x7f\x{FFFE}\x{FFFF}/]")).as_py():
        return False  # no valid user ID: see `shared.formats.source_keys`
    # The order must also hold across batches: compare the first ID with the last one before it.
    previous_ids = pa.concat_arrays([pa.array([last_user_id], _TEXT_TYPE), user_ids[:-1]])
    return bool(pc.all(pc.less(previous_ids, user_ids)).as_py())


def _encode_lines(batch: pa.RecordBatch) -> pa.Buffer:
    """Return the buffer that holds these rows' lines, each as `encode_row` writes it."""
    columns = [
        values.cast(_TEXT_TYPE) if column.type == "integer" else _quote_column(values)
        for column, values in zip(COLUMNS, batch.columns, strict=True)
    ]
    lines = pc.binary_join_element_wise(*columns, pa.scalar(",", _TEXT_TYPE))
    terminated_lines = pc.binary_join_element_wise(
        lines, pa.scalar("", _TEXT_TYPE), pa.scalar("\n", _TEXT_TYPE)
    )
    length = pc.sum(pc.binary_length(terminated_lines)).as_py()
    return terminated_lines.buffers()[2].slice(0, length)


def _quote_column(column: pa.Array) -> pa.Array:
    quote = pa.scalar('"', _TEXT_TYPE)
    needs_quotes = pc.match_substring_regex(column, '[",]')
    if not pc.any(needs_quotes).as_py():
        return column
    escaped = pc.replace_substring(column, '"', '""')
    return pc.if_else(
        needs_quotes,
        pc.binary_join_element_wise(quote, escaped, quote, pa.scalar("", _TEXT_TYPE)),
        column,
    )
