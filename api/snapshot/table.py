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

from api.query.filters import encode_birthdays
from api.snapshot.caches import GzipBlocks, LruCache, OnceCache
from api.snapshot.diff import UnchangedRange, diff_lines
from shared.formats.output_csv import (
    OUTPUT_COLUMNS,
    OUTPUT_HEADER,
    InvalidOutputCsv,
    OutputCsv,
    decode_row,
    read_table,
)
from shared.suspicious import CHECKED_COLUMNS, SuspiciousRows, find_suspicious_rows

_MIN_BULK_LINES = 2000
"""From this number of lines on, parsing by column is faster than parsing line by line."""
_FRAGMENT_COST_LINES = 15
"""Handling one more fragment costs as much as parsing this many lines."""

_encode_string = JSONEncoder(ensure_ascii=False).encode

_Scalar = TypeVar("_Scalar", bound=np.generic)
RowFields = tuple[str, str, str, int, str]
_NO_GZIP_BLOCKS: Mapping[str, GzipBlocks] = MappingProxyType({})


class _Fragment(NamedTuple):
    r"""Consecutive rows of a table.

    `line_lengths` are in bytes, with LF; `json` is the rows' JSON, joined by ",\n"; `row_starts`
    are the offsets of the rows in it.  `birthts` is in Unix milliseconds, `birthday` the result of
    `api.query.filters.encode_birthdays`.  All arrays have one entry per row.
    """

    line_lengths: NDArray[np.int64]
    json: bytes | memoryview
    row_starts: NDArray[np.int64]
    birthts: NDArray[np.int64]
    birthday: NDArray[np.int32]
    has_image: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class JsonRows:
    r"""The JSON of some rows, concatenated.

    Row `n` is `text[row_starts[n]:row_starts[n + 1]]`.  Its final two bytes are the separator
    ",\n".  For the row at index `array_end_row` they are the end of the table's array, "]\n".
    `array_end_row` is -1 if the table's last row is not among these rows.
    """

    text: bytes | memoryview
    row_starts: NDArray[np.int64]
    array_end_row: int

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.row_starts) - 1


class SnapshotTable:
    """One version of output.csv, prepared for queries.

    `json` is the body of an unfiltered GET /data.  `birthts` (Unix milliseconds), `birthday` (see
    `api.query.filters`) and `has_image` have one entry per row.  `etag` is the ETag of the object,
    without quotes.  `derived` and `cache` cache what is derived from this version.  `gzip_blocks`
    caches the compressed blocks of this version, or of the previous one until this one is
    compressed.
    """

    def __init__(
        self,
        output: OutputCsv,
        etag: str,
        fragments: Sequence[_Fragment] = (),
        gzip_blocks: Mapping[str, GzipBlocks] = _NO_GZIP_BLOCKS,
    ) -> None:
        self.etag = etag
        self._output = output
        self.derived = OnceCache()
        self.cache = LruCache()
        self.gzip_blocks: dict[str, GzipBlocks] = {"json": {}, "ndjson": {}, "csv": {}}
        self.gzip_blocks.update(gzip_blocks)
        line_lengths = _concatenate([fragment.line_lengths for fragment in fragments], np.int64)
        self._line_starts = len(OUTPUT_HEADER) + np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(line_lengths)]
        )
        self.birthts = _concatenate([fragment.birthts for fragment in fragments], np.int64)
        self.birthday = _concatenate([fragment.birthday for fragment in fragments], np.int32)
        self.has_image = _concatenate([fragment.has_image for fragment in fragments], np.bool_)
        self.json = _join_array(fragments)
        self._row_starts = _compute_row_starts(fragments, len(self.json))

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.birthts)

    def build_next_version(self, body: bytes, etag: str) -> "SnapshotTable":
        """Return the table of a newer output.csv; only lines that are new are parsed.

        Raises `InvalidOutputCsv`.
        """
        output = OutputCsv(body)
        changes = list(diff_lines(self._output.body, body, len(OUTPUT_HEADER)))
        # With too many fragments, parsing the whole file is faster.
        if len(changes) * _FRAGMENT_COST_LINES > output.row_count:
            changes = [body[len(OUTPUT_HEADER) :]] if output.row_count else []
        fragments = [self._build_fragment(change) for change in changes]
        return SnapshotTable(output, etag, fragments, self.gzip_blocks)

    def has_row(self, user_id: str) -> bool:
        """Return whether this user has a row."""
        return self.find_row(user_id) is not None

    @property
    def csv(self) -> bytes:
        """The bytes of output.csv."""
        return self._output.body

    @property
    def suspicious_rows(self) -> SuspiciousRows:
        """The rows that are probably wrong; found on first use, in a few ms, then cached."""
        return self.derived.get_or_compute(
            "suspicious", lambda: find_suspicious_rows(read_table(self.csv, CHECKED_COLUMNS))
        )

    @property
    def has_found_suspicious_rows(self) -> bool:
        """Whether `suspicious_rows` has been used before, so that it takes no time."""
        return self.derived.get("suspicious") is not None

    @property
    def columns(self) -> pa.Table:
        """The rows as Arrow columns, text as `large_string`; computed on first use, then cached."""
        return self.derived.get_or_compute("columns", lambda: read_table(self.csv).combine_chunks())

    def find_row(self, user_id: str) -> int | None:
        """Return the number of this user's row; None if it has no row."""
        try:
            start = self._output.find_line_start(user_id)
        except InvalidOutputCsv:
            return None
        return None if start is None else int(np.searchsorted(self._line_starts, start))

    def get_row_json(self, row_number: int) -> bytes:
        """Return the JSON object of one row, followed by LF."""
        start = self._row_starts[row_number]
        end = self._row_starts[row_number + 1] - 2
        return self.json[start:end] + b"\n"

    def get_row_starts(self, format_name: str) -> NDArray[np.int64]:
        """Return the byte offset of each row in the whole table, then the end of the last one.

        `format_name` is `json`, `ndjson` or `csv`.
        """
        match format_name:
            case "csv":
                return self._line_starts
            case "ndjson":  # unlike JSON: no "[" before the first row, and no comma between rows
                return self._row_starts - 1 - np.arange(self.row_count + 1)
            case _:
                return self._row_starts

    def select_json(self, rows: NDArray[np.int64] | None) -> JsonRows:
        """Return the JSON of the rows with these numbers, in this order; of all rows if None."""
        if rows is None:
            return JsonRows(self.json, self._row_starts, self.row_count - 1)
        column = self.derived.get_or_compute(
            "json", lambda: _view_as_column(self.json, self._row_starts)
        )
        text, starts = _take_rows(column, rows)
        # Find the row that ends with "]" instead of a comma.  Most often it is last here, too.
        last = self.row_count - 1
        if len(rows) and rows[-1] == last:
            return JsonRows(text, starts, len(rows) - 1)
        array_ends = (rows == last).nonzero()[0]
        return JsonRows(text, starts, int(array_ends[0]) if len(array_ends) else -1)

    def select_lines(self, rows: NDArray[np.int64]) -> memoryview:
        """Return the lines of output.csv for the rows with these numbers, in this order."""
        column = self.derived.get_or_compute(
            "lines", lambda: _view_as_column(self.csv, self._line_starts)
        )
        text, _ = _take_rows(column, rows)
        return text

    def _build_fragment(self, change: UnchangedRange | bytes) -> _Fragment:
        if isinstance(change, UnchangedRange):
            return self._reuse_fragment(change)
        return _parse_fragment(change)

    def _reuse_fragment(self, unchanged: UnchangedRange) -> _Fragment:
        first, last = np.searchsorted(self._line_starts, unchanged).tolist()
        start = int(self._row_starts[first])
        stop = int(self._row_starts[last])
        return _Fragment(
            np.diff(self._line_starts[first : last + 1]),
            memoryview(self.json)[start : stop - 2],  # without the separator after the last row
            self._row_starts[first:last] - start,
            self.birthts[first:last],
            self.birthday[first:last],
            self.has_image[first:last],
        )


def _parse_fragment(text: bytes) -> _Fragment:
    lines = text.split(b"\n")[:-1]
    rows = []
    birth_times = []
    has_image = []
    for user_id, first_name, last_name, birthts, img_path in _decode_lines(text, lines):
        image_path = _encode_string(img_path) if img_path else "null"
        row = (
            f'{{"user_id":{_encode_string(user_id)},"first_name":{_encode_string(first_name)},'
            f'"last_name":{_encode_string(last_name)},"birthts":{birthts},"img_path":{image_path}}}'
        )
        rows.append(row.encode())
        birth_times.append(birthts)
        has_image.append(bool(img_path))
    birthts_column = np.array(birth_times, np.int64)
    return _Fragment(
        np.array([len(line) + 1 for line in lines], np.int64),
        b",\n".join(rows),
        np.cumsum([0, *(len(row) + 2 for row in rows[:-1])]),  # each separator has two bytes
        birthts_column,
        encode_birthdays(birthts_column),
        np.array(has_image, np.bool_),
    )


def _decode_lines(text: bytes, lines: Sequence[bytes]) -> Iterable[RowFields]:
    if len(lines) < _MIN_BULK_LINES:
        rows = map(decode_row, lines)
        return (
            (row.user_id, row.first_name, row.last_name, row.birthts, row.img_path) for row in rows
        )
    table = read_table(OUTPUT_HEADER + text)
    # pyarrow skips blank lines without an error.
    if len(table) != len(lines):
        raise InvalidOutputCsv("some lines are not rows")
    return zip(*(table[name].to_numpy().tolist() for name in OUTPUT_COLUMNS), strict=True)


def _view_as_column(text: bytes, starts: NDArray[np.int64]) -> pa.Array:
    """Return an Arrow column over existing text, without a copy.

    Taking rows from it costs nanoseconds per row, also with a million rows.
    """
    return pa.Array.from_buffers(
        pa.large_binary(), len(starts) - 1, [None, pa.py_buffer(starts), pa.py_buffer(text)]
    )


def _take_rows(column: pa.Array, rows: NDArray[np.int64]) -> tuple[memoryview, NDArray[np.int64]]:
    _, ends, buffer = column.take(pa.array(rows)).buffers()
    row_starts = np.frombuffer(ends, np.int64)[: len(rows) + 1] if ends else np.zeros(1, np.int64)
    return memoryview(buffer or b"")[: int(row_starts[-1])], row_starts


def _join_array(fragments: Iterable[_Fragment]) -> bytes:
    texts: list[bytes | memoryview] = [b"["]
    for fragment in fragments:
        texts += fragment.json, b",\n"
    if len(texts) == 1:
        return b"[]\n"
    # As long as a separator, so every row ends two bytes before the next one would start.
    texts[-1] = b"]\n"
    return b"".join(texts)


def _compute_row_starts(fragments: Iterable[_Fragment], end: int) -> NDArray[np.int64]:
    """Return the offset of each row in the JSON array of the fragments, then that of a next row."""
    starts = []
    offset = 1
    for fragment in fragments:
        starts.append(fragment.row_starts + offset)
        offset += len(fragment.json) + 2
    return np.concatenate([*starts, np.array([end], np.int64)])


def _concatenate(columns: Sequence[NDArray[_Scalar]], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate(columns) if columns else np.zeros(0, dtype)


EMPTY_TABLE = SnapshotTable(OutputCsv(), "")
