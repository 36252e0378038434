"""The format of output.csv, and the published table held as the bytes of that file. Pure.

The format is UTF-8 with LF line endings and RFC 4180 quoting only where required. A field contains
no line break, so one line is one record. Lines are sorted by user ID by code point, which is also
the order of the IDs' UTF-8 bytes. A user is therefore found by binary search in the bytes, and a
million rows need no more memory than the file itself.
"""

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from shared.keys import UserFile, classify, csv_key
from shared.records import Row

COLUMNS = ("user_id", "first_name", "last_name", "birthts", "img_path")
HEADER: bytes = b"user_id,first_name,last_name,birthts,img_path\n"

_TEXT = pa.large_string()
_TYPES = dict.fromkeys(COLUMNS, _TEXT) | {"birthts": pa.int64()}
# pyarrow requires that each line fits into one block. A user's CSV has at most 1,000,000 bytes, and
# UTF-16 text may grow by half when it is encoded in UTF-8.
_BLOCK_BYTES = 4 << 20

_QUOTED = re.compile(rb'"([^"]*(?:""[^"]*)*)"')
_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",]*)),')
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,15}")


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
        line = ",".join(map(_quoted, fields))
    return f"{line}\n".encode()


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if '"' in field or "," in field else field


def decode_row(line: bytes) -> Row:
    """Parse one line, with or without its LF. Raises `InvalidOutputCsv`."""
    try:
        text = line.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise InvalidOutputCsv(f"not UTF-8 at byte {error.start + 1} of the line") from None
    fields = text.split(",") if '"' not in text else _unquoted(text)
    if len(fields) != len(COLUMNS) or "\n" in text or "\r" in text:
        raise InvalidOutputCsv(f"the line does not have {len(COLUMNS)} fields")
    if not _WHOLE_NUMBER.fullmatch(fields[3]):
        raise InvalidOutputCsv("birthts is not a whole number")
    return Row(fields[0], fields[1], fields[2], int(fields[3]), fields[4])


def _unquoted(text: str) -> list[str]:
    fields, position, ended = list[str](), 0, f"{text},"
    while position < len(ended):
        found = _FIELD.match(ended, position)
        if found is None:
            raise InvalidOutputCsv("a quote is misplaced")
        fields.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        position = found.end()
    return fields


class OutputCsv:
    """An immutable output.csv, sorted and without duplicates.

    Use `repair` for a file that may have been edited by hand.
    """

    __slots__ = ("_rows", "body")

    body: bytes

    def __init__(self, body: bytes = HEADER) -> None:
        """Wrap the bytes unchanged.

        Raises `InvalidOutputCsv` if the header is not `HEADER` or the last line has no LF.
        """
        if not body.startswith(HEADER):
            raise InvalidOutputCsv(f"line 1 is not {HEADER.decode().rstrip()}")
        if not body.endswith(b"\n"):
            raise InvalidOutputCsv("the last line has no line ending")
        self.body = body
        self._rows: int | None = None

    @classmethod
    def repair(cls, body: bytes) -> "OutputCsv":
        """Normalize a file that may have been edited by hand to the form that the publisher writes.

        Lines may be in any order. Lines that are not a row of a valid user are dropped; if a user
        has several lines, the last one is kept. Without the header the result is empty. A canonical
        file is returned with the same `body`; the check takes half a second per million rows.
        """
        if is_proper(body):
            return cls(body)
        lines: dict[str, bytes] = {}
        # Spreadsheet programs write a byte order mark and CRLF.
        header, *rest = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if header.removesuffix(b"\r") + b"\n" == HEADER:
            for line in rest:
                row = _possible_row(line.removesuffix(b"\r"))
                if row:
                    lines[row.user_id] = encode_row(row)
        return cls(HEADER + b"".join(lines[user_id] for user_id in sorted(lines)))

    def __len__(self) -> int:
        """Return the number of rows."""
        if self._rows is None:
            self._rows = self.body.count(b"\n") - 1
        return self._rows

    def get(self, user_id: str) -> Row | None:
        """Return a user's row, or None. Raises `InvalidOutputCsv` if that line is not valid."""
        start, end = self._find(user_id.encode(), len(HEADER))
        return decode_row(self.body[start:end]) if end > start else None

    def start_of(self, user_id: str) -> int | None:
        """Return the offset of the user's line in `body`, or None if there is no such line."""
        start, end = self._find(user_id.encode(), len(HEADER))
        return start if end > start else None

    def rows(self) -> Iterator[Row]:
        """Iterate over all rows, in order. Raises `InvalidOutputCsv` at an invalid line."""
        lines = io.BytesIO(self.body)
        lines.seek(len(HEADER))
        return map(decode_row, lines)

    def replace(self, changes: Mapping[str, Row | None]) -> "OutputCsv":
        """Return a table with these users' rows replaced, or removed if None.

        Returns `self` if nothing changes. The bytes are copied once, and only the IDs on the path
        of the binary search are parsed. Raises `ValueError` if a row cannot be encoded, or belongs
        to another user.
        """
        view, parts = memoryview(self.body), list[bytes | memoryview]()
        rows, copied, position = len(self), 0, len(HEADER)
        for user_id, row in sorted(changes.items()):
            if row and row.user_id != user_id:
                raise ValueError("a row is stored under another user's ID")
            line = encode_row(row) if row else b""
            # The changes are sorted, so each search begins where the previous one ended.
            start, position = self._find(user_id.encode(), position)
            if view[start:position] != line:
                parts += view[copied:start], line
                copied = position
                rows += bool(line) - (position > start)
        return _trusted(b"".join([*parts, view[copied:]]), rows) if parts else self

    def _find(self, user_id: bytes, low: int) -> tuple[int, int]:
        """Return the start and end of the user's line, searching from the offset `low`.

        If there is no such line, both are the offset where it would be inserted.
        """
        body, high = self.body, len(self.body)
        while low < high:
            middle = (low + high) // 2
            start = body.rfind(b"\n", low, middle) + 1 or low
            end = body.index(b"\n", middle) + 1
            found = _user_id(body, start, end)
            if found == user_id:
                return start, end
            if found < user_id:
                low = end
            else:
                high = start
        return low, low


def _trusted(body: bytes, rows: int) -> OutputCsv:
    output = OutputCsv(body)
    # The caller has counted the rows, so `__len__` need not scan the bytes.
    output._rows = rows
    return output


def _user_id(body: bytes, start: int, end: int) -> bytes:
    quoted = _QUOTED.match(body, start, end) if body[start] == ord('"') else None
    return quoted[1].replace(b'""', b'"') if quoted else body[start : body.find(b",", start, end)]


def _possible_row(line: bytes) -> Row | None:
    try:
        row = decode_row(line)
    except InvalidOutputCsv:
        return None
    return row if isinstance(classify(csv_key(row.user_id)), UserFile) else None


def read_frame(body: bytes) -> pd.DataFrame:
    """Parse an output.csv into a DataFrame: text unchanged ("0001", "NA", ""), `birthts` as int64.

    Raises `InvalidOutputCsv` unless every line is a row.
    """
    OutputCsv(body)
    try:
        table = pa.table({name: pa.array([], kind) for name, kind in _TYPES.items()})
        if len(body) > len(HEADER):
            table = pa_csv.read_csv(pa.BufferReader(body), **_options(use_threads=True))
    except pa.ArrowInvalid:  # its message quotes the line, and personal names must not be logged
        raise InvalidOutputCsv("a line is not a row") from None
    frame: pd.DataFrame = table.to_pandas()
    return frame


def is_proper(body: bytes) -> bool:
    """Return whether the bytes are canonical, that is, exactly as the publisher writes them.

    Canonical means: header, sorted, no duplicates, minimal quoting. Reads every line at half a
    second per million rows, with a few MB in memory at a time.
    """
    if not body.startswith(HEADER):
        return False
    whole, position, last = pa.py_buffer(body), len(HEADER), ""
    try:
        batches = pa_csv.open_csv(pa.BufferReader(body), **_options(use_threads=False)) if whole.size > position else ()
        for batch in batches:
            if not batch.num_rows:
                continue  # only blank lines, which are not canonical: a comparison below fails
            lines = _lines(batch)
            end = position + lines.size
            if end > whole.size or not whole.slice(position, lines.size).equals(lines):
                return False
            if not _ascending(batch["user_id"], last):
                return False
            position, last = end, batch["user_id"][-1].as_py()
    except pa.ArrowInvalid:
        return False
    return bool(position == whole.size)


def _options(*, use_threads: bool) -> dict[str, Any]:
    return {
        "read_options": pa_csv.ReadOptions(
            column_names=COLUMNS, skip_rows=1, block_size=_BLOCK_BYTES, use_threads=use_threads
        ),
        # "NA" and the empty string are valid text, not missing values.
        "convert_options": pa_csv.ConvertOptions(column_types=_TYPES, null_values=[], strings_can_be_null=False),
    }


def _ascending(user_ids: pa.Array, last: str) -> bool:
    if pc.any(pc.match_substring_regex(user_ids, r"[\x00-\x1f\x7f/]")).as_py():
        return False  # no valid user ID: see `shared.keys`
    # The order must also hold across batches: compare the first ID with the last one before it.
    before = pa.concat_arrays([pa.array([last], _TEXT), user_ids[:-1]])
    return bool(pc.all(pc.less(before, user_ids)).as_py())


def _lines(batch: pa.RecordBatch) -> pa.Buffer:
    """Return the buffer that holds these rows' lines, each as `encode_row` writes it."""
    columns = [
        column.cast(_TEXT) if name == "birthts" else _quoted_column(column)
        for name, column in zip(COLUMNS, batch.columns, strict=True)
    ]
    lines = pc.binary_join_element_wise(*columns, pa.scalar(",", _TEXT))
    ended = pc.binary_join_element_wise(lines, pa.scalar("", _TEXT), pa.scalar("\n", _TEXT))
    return ended.buffers()[2].slice(0, pc.sum(pc.binary_length(ended)).as_py())


def _quoted_column(column: pa.Array) -> pa.Array:
    quote, special = pa.scalar('"', _TEXT), pc.match_substring_regex(column, '[",]')
    if not pc.any(special).as_py():
        return column
    doubled = pc.replace_substring(column, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise(quote, doubled, quote, pa.scalar("", _TEXT)), column)
