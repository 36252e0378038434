"""Encode rows as JSON, NDJSON, CSV or Parquet from the buffers of a `SnapshotTable`.

The JSON of each row is encoded once, when the table parses the row.  The functions here only slice
and join it.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from api.snapshot.table import JsonRows, SnapshotTable
from shared.formats.output_csv import OUTPUT_COLUMNS, OUTPUT_HEADER
from shared.formats.records import COLUMNS

CONTENT_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
}

_PARQUET_TYPES = {"string": pa.string(), "integer": pa.int64()}
_PARQUET_SCHEMA = pa.schema((column.name, _PARQUET_TYPES[column.type]) for column in COLUMNS)

# A row is split into pieces: its opening brace (0), then field number n (2 n + 1) and the comma
# after it (2 n + 2). The closing brace stands where the last field's comma would be.
_OPEN_BRACE = 0
_FIRST_COMMA = 2
_CLOSE_BRACE = 2 * len(OUTPUT_COLUMNS)


def encode_json_array(rows: JsonRows, fields: Sequence[str] = ()) -> bytes:
    """Return the rows as a JSON array, one row per line; only these `fields`, or all if empty."""
    if not rows.row_count:
        return b"[]\n"
    if fields:
        return b"".join([b"[", _join_pieces(rows, fields, is_array=True)[:-2], b"]\n"])
    text = memoryview(rows.text)
    start = int(rows.row_starts[0])
    end = int(rows.row_starts[-1]) - 2
    # The table's last row ends with "]".  If other rows follow it here, it needs a comma instead.
    if 0 <= rows.array_end_row < rows.row_count - 1:
        last_row_end = int(rows.row_starts[rows.array_end_row + 1])
        before = text[start : last_row_end - 2]
        after = text[last_row_end:end]
        return b"".join([b"[", before, b",\n", after, b"]\n"])
    return b"".join([b"[", text[start:end], b"]\n"])


def encode_ndjson(rows: JsonRows, fields: Sequence[str] = ()) -> bytes:
    """Return the rows as NDJSON: one JSON object per line; only these `fields`, or all if empty."""
    return bytes(_join_pieces(rows, fields, is_array=False)) if rows.row_count else b""


def encode_csv(
    table: SnapshotTable, rows: NDArray[np.int64] | None, fields: Sequence[str] = ()
) -> bytes:
    """Return the rows in the format of output.csv: a header, then one line per row.

    `rows`: the row numbers, in order; None for all rows.
    """
    if fields:
        return encode_csv_columns(_select_columns(table, rows).select(list(fields)))
    return table.csv if rows is None else b"".join([OUTPUT_HEADER, table.select_lines(rows)])


def encode_csv_columns(columns: pa.Table) -> bytes:
    """Return columns as CSV; values are quoted only where RFC 4180 requires it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in columns.columns), strict=True))
    return text.getvalue().encode()


def encode_parquet(
    table: SnapshotTable, rows: NDArray[np.int64] | None, fields: Sequence[str] = ()
) -> bytes:
    """Return the rows as a Parquet file.

    Texts are strings, and integers int64.  `img_path` is null without an image.  `rows`: the row
    numbers, in order; None for all rows.
    """
    columns = _select_columns(table, rows)
    image_paths = columns["img_path"]
    with_nulls = pc.if_else(
        pc.equal(image_paths, ""), pa.scalar(None, image_paths.type), image_paths
    )
    columns = columns.set_column(columns.column_names.index("img_path"), "img_path", with_nulls)
    sink = pa.BufferOutputStream()
    pq.write_table(columns.cast(_PARQUET_SCHEMA).select(list(fields or OUTPUT_COLUMNS)), sink)
    return bytes(sink.getvalue().to_pybytes())


def _select_columns(table: SnapshotTable, rows: NDArray[np.int64] | None) -> pa.Table:
    return table.columns if rows is None else table.columns.take(pa.array(rows))


def _join_pieces(rows: JsonRows, fields: Sequence[str], *, is_array: bool) -> memoryview:
    """Return the rows' text with only these fields, or with all if `fields` is empty.

    Each line ends with a comma and LF if `is_array`, else with LF.

    A row's text is `{`, five fields joined by commas, `}`, and the two-byte separator between rows.
    These pieces are treated as an Arrow column over the existing text.  Taking pieces from it
    copies bytes, so no row is encoded again.
    """
    pieces = _split_fields(rows) if fields else _split_rows(rows)
    pieces_per_row = pieces.shape[1]
    comma_piece = pieces_per_row - 2
    newline_piece = pieces_per_row - 1
    pattern = _build_field_pattern(fields) if fields else [0]
    if is_array:
        pattern.append(comma_piece)
    pattern.append(newline_piece)
    piece_numbers = np.arange(rows.row_count)[:, None] * pieces_per_row + np.array(pattern)
    # The table's last row is followed by "]", not by a comma: take the comma of another row.
    if is_array and rows.array_end_row >= 0 and rows.row_count > 1:
        other_row = (rows.array_end_row + 1) % rows.row_count
        piece_numbers[rows.array_end_row, -2] = other_row * pieces_per_row + comma_piece
    offsets = np.append(pieces.ravel(), rows.row_starts[-1])
    column = pa.Array.from_buffers(
        pa.large_binary(), pieces.size, [None, pa.py_buffer(offsets), pa.py_buffer(rows.text)]
    ).take(pa.array(piece_numbers.ravel()))
    _, ends, text = column.buffers()
    return memoryview(text)[: int(np.frombuffer(ends, np.int64)[len(column)])]


def _build_field_pattern(fields: Sequence[str]) -> list[int]:
    """Return the numbers of the pieces that make a row with only these fields."""
    pattern = [_OPEN_BRACE]
    for name in fields:
        if len(pattern) > 1:
            pattern.append(_FIRST_COMMA)
        pattern.append(2 * OUTPUT_COLUMNS.index(name) + 1)
    return [*pattern, _CLOSE_BRACE]


def _split_rows(rows: JsonRows) -> NDArray[np.int64]:
    row_starts = rows.row_starts[:-1]
    row_ends = rows.row_starts[1:]
    return np.column_stack([row_starts, row_ends - 2, row_ends - 1])


def _split_fields(rows: JsonRows) -> NDArray[np.int64]:
    row_starts = rows.row_starts[:-1]
    row_ends = rows.row_starts[1:]
    column = pa.Array.from_buffers(
        pa.large_binary(),
        rows.row_count,
        [None, pa.py_buffer(np.ascontiguousarray(rows.row_starts)), pa.py_buffer(rows.text)],
    )
    pieces = [row_starts, row_starts + 1]
    for name in OUTPUT_COLUMNS[1:]:
        # This text is unique in a row: inside a value, its quotes would be escaped by backslashes.
        comma = row_starts + pc.find_substring(column, f',"{name}":'.encode()).to_numpy()
        pieces += comma, comma + 1
    return np.column_stack([*pieces, row_ends - 3, row_ends - 2, row_ends - 1])
