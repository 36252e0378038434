"""Encode rows as JSON, NDJSON, CSV or Parquet from the buffers that a `Table` caches.

The JSON of each row is encoded once, when the table parses the row.  The functions here only slice
and join it.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from api.snapshot import Rows, Table
from shared.output_csv import COLUMNS, HEADER

MEDIA_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
}

_OPEN, _CLOSE = 0, 2 * len(COLUMNS)
"""Indexes of a row's two braces among its pieces; field number n is piece 2 n + 1."""


def json_array(rows: Rows, fields: Sequence[str] = ()) -> bytes:
    """Return the rows as a JSON array, one row per line; only these `fields`, or all if empty."""
    if not len(rows):
        return b"[]\n"
    if fields:
        return b"".join([b"[", _rejoined(rows, fields, is_array=True)[:-2], b"]\n"])
    text, end, after = memoryview(rows.text), int(rows.starts[-1]) - 2, int(rows.starts[rows.last + 1])
    # The table's last row ends with "]".  If other rows follow it here, it needs a comma instead.
    if 0 <= rows.last < len(rows) - 1:
        return b"".join([b"[", text[int(rows.starts[0]) : after - 2], b",\n", text[after:end], b"]\n"])
    return b"".join([b"[", text[int(rows.starts[0]) : end], b"]\n"])


def ndjson(rows: Rows, fields: Sequence[str] = ()) -> bytes:
    """Return the rows as NDJSON: one JSON object per line; only these `fields`, or all if empty."""
    return bytes(_rejoined(rows, fields, is_array=False)) if len(rows) else b""


def csv(table: Table, rows: NDArray[np.int64] | None, fields: Sequence[str] = ()) -> bytes:
    """Return the rows in the format of output.csv: a header, then one line per row.

    `rows`: the row numbers, in order; None for all rows.
    """
    if fields:
        return csv_of(_columns(table, rows).select(list(fields)))
    return table.csv if rows is None else b"".join([HEADER, table.pick_lines(rows)])


def csv_of(columns: pa.Table) -> bytes:
    """Return columns as CSV; values are quoted only where RFC 4180 requires it."""
    text: str = columns.to_pandas().to_csv(index=False, lineterminator="\n")
    return text.encode()


def parquet(table: Table, rows: NDArray[np.int64] | None, fields: Sequence[str] = ()) -> bytes:
    """Return the rows as a Parquet file.

    All columns are strings, except `birthts`, which is int64.  `img_path` is null without an image.
    `rows`: the row numbers, in order; None for all rows.
    """
    columns = _columns(table, rows)
    path = columns["img_path"]
    with_nulls = pc.if_else(pc.equal(path, ""), pa.scalar(None, path.type), path)
    columns = columns.set_column(columns.column_names.index("img_path"), "img_path", with_nulls)
    kinds = pa.schema((name, pa.int64() if name == "birthts" else pa.string()) for name in columns.column_names)
    sink = pa.BufferOutputStream()
    pq.write_table(columns.cast(kinds).select(list(fields or COLUMNS)), sink)
    return bytes(sink.getvalue().to_pybytes())


def _columns(table: Table, rows: NDArray[np.int64] | None) -> pa.Table:
    return table.columns if rows is None else table.columns.take(pa.array(rows))


def _rejoined(rows: Rows, fields: Sequence[str], *, is_array: bool) -> memoryview:
    """Return the rows' text with only these fields, or with all if `fields` is empty.

    Each line ends with a comma and LF if `is_array`, else with LF.

    A row's text is `{`, five fields joined by commas, `}`, and the two-byte separator between rows.
    These pieces are treated as an Arrow column over the existing text.  Taking pieces from it
    copies bytes, so no row is encoded again.
    """
    pieces = _field_pieces(rows) if fields else _row_pieces(rows)
    wanted = [number for name in fields for number in (2, 2 * COLUMNS.index(name) + 1)][1:]
    pattern = [_OPEN, *wanted, _CLOSE] if fields else [0]
    count, comma, new_line = pieces.shape[1], pieces.shape[1] - 2, pieces.shape[1] - 1
    taken = np.arange(len(rows))[:, None] * count + np.array([*pattern, *([comma] if is_array else []), new_line])
    # The table's last row is followed by "]", not by a comma: take the comma of another row.
    if is_array and rows.last >= 0 and len(rows) > 1:
        taken[rows.last, -2] = (rows.last + 1) % len(rows) * count + comma
    offsets = np.append(pieces.ravel(), rows.starts[-1])
    column = pa.Array.from_buffers(
        pa.large_binary(), pieces.size, [None, pa.py_buffer(offsets), pa.py_buffer(rows.text)]
    ).take(pa.array(taken.ravel()))
    _, ends, text = column.buffers()
    return memoryview(text)[: int(np.frombuffer(ends, np.int64)[len(column)])]


def _row_pieces(rows: Rows) -> NDArray[np.int64]:
    begins, ends = rows.starts[:-1], rows.starts[1:]
    return np.column_stack([begins, ends - 2, ends - 1])


def _field_pieces(rows: Rows) -> NDArray[np.int64]:
    begins, ends = rows.starts[:-1], rows.starts[1:]
    column = pa.Array.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows.starts)), pa.py_buffer(rows.text)]
    )
    pieces = [begins, begins + 1]
    for name in COLUMNS[1:]:
        # This text is unique in a row: inside a value, its quotes would be escaped by backslashes.
        comma = begins + pc.find_substring(column, f',"{name}":'.encode()).to_numpy()
        pieces += comma, comma + 1
    return np.column_stack([*pieces, ends - 3, ends - 2, ends - 1])
