"""The snapshot: one version of output.csv in memory, as the bytes that responses are made of.

A table is immutable, except for its caches; a newer version replaces it.  The JSON of each row is
encoded once, when its line is new.  So an update costs as much as what changed, and a response
costs a copy.  A row takes the memory of its line, its JSON and 29 bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import JSONEncoder
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from api.answers import MOST_QUESTIONS, Answers, Prepared
from api.compression import Blocks
from api.difference import Kept, difference
from api.filters import birthdays
from shared.output_csv import COLUMNS, HEADER, InvalidOutputCsv, OutputCsv, decode_row, read_frame

_BULK_LINES = 2000
"""From this number of lines on, parsing by column is faster than parsing line by line."""
_LINES_A_PIECE = 15
"""Handling one more piece costs as much as parsing this many lines."""

_json = JSONEncoder(ensure_ascii=False).encode

_Scalar = TypeVar("_Scalar", bound=np.generic)
Fields = tuple[str, str, str, int, str]
_NO_BLOCKS: Mapping[str, Blocks] = MappingProxyType({})


class _Part(NamedTuple):
    r"""Consecutive rows of a table.

    `line_lengths` are in bytes, with LF; `json` is the rows' JSON, joined by ",\n"; `starts` are
    the offsets of the rows in it.
    """

    line_lengths: NDArray[np.int64]
    json: bytes | memoryview
    starts: NDArray[np.int64]
    birthts: NDArray[np.int64]
    birthday: NDArray[np.int32]
    has_image: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    r"""The JSON of some rows, concatenated.

    Row `n` is `text[starts[n]:starts[n + 1]]`.  Its final two bytes are the separator ",\n".  For
    the row at index `last` they are the end of the table's array, "]\n"; `last` is -1 if the
    table's last row is not among these rows.
    """

    text: bytes | memoryview
    starts: NDArray[np.int64]
    last: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts) - 1


class Table:
    """One version of output.csv, prepared for queries.

    `json` is the body of an unfiltered GET /data.  `birthts`, `birthday` (see `api.filters`) and
    `has_image` have one entry per row.  `etag` is the ETag of the object.  `prepared`, `answers`
    and `questions` cache what is derived from this version.  `blocks` caches the compressed blocks
    of this version, or of the previous one until this one is compressed.
    """

    def __init__(
        self, output: OutputCsv, etag: str, parts: Sequence[_Part] = (), blocks: Mapping[str, Blocks] = _NO_BLOCKS
    ) -> None:
        self.etag, self._output = etag, output
        self.prepared, self.answers, self.questions = Prepared(), Answers(), Answers(MOST_QUESTIONS)
        self.blocks: dict[str, Blocks] = {"json": {}, "ndjson": {}, "csv": {}} | dict(blocks)
        lengths = _joined([part.line_lengths for part in parts], np.int64)
        self._lines = len(HEADER) + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self.birthts = _joined([part.birthts for part in parts], np.int64)
        self.birthday = _joined([part.birthday for part in parts], np.int32)
        self.has_image = _joined([part.has_image for part in parts], np.bool_)
        self.json = _array([part.json for part in parts])
        self._rows = _starts(parts, len(self.json))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.birthts)

    def updated(self, body: bytes, etag: str) -> "Table":
        """Return the table of a newer output.csv; only lines that are new are parsed.

        Raises `InvalidOutputCsv`.
        """
        output = OutputCsv(body)
        pieces = list(difference(self._output.body, body, len(HEADER)))
        # With too many pieces, parsing the whole file is faster.
        if len(pieces) * _LINES_A_PIECE > len(output):
            pieces = [body[len(HEADER) :]] if len(output) else []
        parts = [self._part(piece) if isinstance(piece, Kept) else _read(piece) for piece in pieces]
        return Table(output, etag, parts, self.blocks)

    def has_row(self, user_id: str) -> bool:
        """Return whether this user has a row."""
        return self.row_of(user_id) is not None

    @property
    def csv(self) -> bytes:
        """The bytes of output.csv."""
        return self._output.body

    @property
    def columns(self) -> pa.Table:
        """The rows as Arrow columns, text as `large_string`; computed on first use, then cached."""
        return self.prepared.get("columns", lambda: pa.Table.from_pandas(read_frame(self.csv), preserve_index=False))

    def row_of(self, user_id: str) -> int | None:
        """Return the number of this user's row; None if it has no row."""
        try:
            start = self._output.start_of(user_id)
        except InvalidOutputCsv:
            return None
        return None if start is None else int(np.searchsorted(self._lines, start))

    def row_json(self, number: int) -> bytes:
        """Return the JSON object of one row, followed by LF."""
        return self.json[self._rows[number] : self._rows[number + 1] - 2] + b"\n"

    def starts(self, kind: str) -> NDArray[np.int64]:
        """Return the offset of each row in the whole table as `kind`, then the end of the last one.

        `kind` is `json`, `ndjson` or `csv`.
        """
        match kind:
            case "csv":
                return self._lines
            case "ndjson":  # unlike JSON: no "[" before the first row, and no comma between rows
                return self._rows - 1 - np.arange(len(self) + 1)
            case _:
                return self._rows

    def pick(self, rows: NDArray[np.int64] | None) -> Rows:
        """Return the JSON of the rows with these numbers, in this order; of all rows if None."""
        if rows is None:
            return Rows(self.json, self._rows, len(self) - 1)
        column = self.prepared.get("json", lambda: _column(self.json, self._rows))
        text, starts = _taken(column, rows)
        # Find the row that ends with "]" instead of a comma.  Most often it is last here, too.
        last = len(self) - 1
        if len(rows) and rows[-1] == last:
            return Rows(text, starts, len(rows) - 1)
        found = (rows == last).nonzero()[0]
        return Rows(text, starts, int(found[0]) if len(found) else -1)

    def pick_lines(self, rows: NDArray[np.int64]) -> memoryview:
        """Return the lines of output.csv for the rows with these numbers, in this order."""
        return _taken(self.prepared.get("lines", lambda: _column(self.csv, self._lines)), rows)[0]

    def _part(self, kept: Kept) -> _Part:
        first, last = np.searchsorted(self._lines, kept).tolist()
        start, stop = int(self._rows[first]), int(self._rows[last])
        return _Part(
            np.diff(self._lines[first : last + 1]),
            memoryview(self.json)[start : stop - 2],
            self._rows[first:last] - start,
            self.birthts[first:last],
            self.birthday[first:last],
            self.has_image[first:last],
        )


def _read(lines: bytes) -> _Part:
    each = lines.split(b"\n")[:-1]
    rows, births, has_image = [], [], []
    for user_id, first_name, last_name, birthts, img_path in _fields(lines, each):
        path = _json(img_path) if img_path else "null"
        rows.append(
            f'{{"user_id":{_json(user_id)},"first_name":{_json(first_name)},"last_name":{_json(last_name)},'
            f'"birthts":{birthts},"img_path":{path}}}'.encode()
        )
        births.append(birthts)
        has_image.append(bool(img_path))
    birthts_column = np.array(births, np.int64)
    return _Part(
        np.array([len(line) + 1 for line in each], np.int64),
        b",\n".join(rows),
        np.cumsum([0, *(len(row) + 2 for row in rows[:-1])]),
        birthts_column,
        birthdays(birthts_column),
        np.array(has_image, np.bool_),
    )


def _fields(lines: bytes, each: Sequence[bytes]) -> Iterable[Fields]:
    if len(each) < _BULK_LINES:
        rows = map(decode_row, each)
        return ((row.user_id, row.first_name, row.last_name, row.birthts, row.img_path) for row in rows)
    frame = read_frame(HEADER + lines)
    if len(frame) != len(each):
        raise InvalidOutputCsv("some lines are not rows")
    return zip(*(frame[name].tolist() for name in COLUMNS), strict=True)


def _column(text: bytes, starts: NDArray[np.int64]) -> pa.Array:
    """Return an Arrow column over existing text, without a copy.

    Taking rows from it costs nanoseconds per row, also with a million rows.
    """
    return pa.Array.from_buffers(pa.large_binary(), len(starts) - 1, [None, pa.py_buffer(starts), pa.py_buffer(text)])


def _taken(column: pa.Array, rows: NDArray[np.int64]) -> tuple[memoryview, NDArray[np.int64]]:
    _, ends, taken = column.take(pa.array(rows)).buffers()
    found = np.frombuffer(ends, np.int64)[: len(rows) + 1] if ends else np.zeros(1, np.int64)
    return memoryview(taken or b"")[: int(found[-1])], found


def _array(parts: Iterable[bytes | memoryview]) -> bytes:
    pieces: list[bytes | memoryview] = [b"["]
    for part in parts:
        pieces += part, b",\n"
    if len(pieces) == 1:
        return b"[]\n"
    pieces[-1] = b"]\n"
    return b"".join(pieces)


def _starts(parts: Iterable[_Part], end: int) -> NDArray[np.int64]:
    """Return the offset of each row in the JSON array of these parts, then that of a next row."""
    starts, at = [], 1
    for part in parts:
        starts.append(part.starts + at)
        at += len(part.json) + 2
    return np.concatenate([*starts, np.array([end], np.int64)])


def _joined(columns: Sequence[NDArray[_Scalar]], kind: type[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate(columns) if columns else np.zeros(0, kind)


EMPTY = Table(OutputCsv(), "")
