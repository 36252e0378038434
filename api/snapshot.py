"""The published table in memory, as the bytes that answers are made of.  Immutable: a newer one takes its place.

The JSON of every row is made once, when its line is new; so following a publish costs what changed, and answering
costs copying.  A row takes its line, its JSON and 29 bytes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from json import JSONEncoder
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from api.difference import Kept, difference
from api.filters import birthdays
from shared.output_csv import COLUMNS, HEADER, InvalidOutputCsv, OutputCsv, decode_row, read_frame

_BULK_LINES = 2000
"""From here on reading columns is cheaper than reading lines one by one."""
_LINES_A_PIECE = 15
"""As many lines are read in the time that it takes to handle one more piece."""
_KEPT_ANSWERS_BYTES = 32 << 20

_json = JSONEncoder(ensure_ascii=False).encode

_Scalar = TypeVar("_Scalar", bound=np.generic)
Fields = tuple[str, str, str, int, str]


class _Part(NamedTuple):
    """Rows that follow each other: their lines' lengths, their JSON joined by ",\\n", and where in it each begins."""

    line_lengths: NDArray[np.int64]
    json: bytes | memoryview
    starts: NDArray[np.int64]
    birthts: NDArray[np.int64]
    birthday: NDArray[np.int32]
    has_image: NDArray[np.bool_]


class Answers:
    """Answers that were made before, the least recently used forgotten first.  For many threads."""

    def __init__(self, most_bytes: int = _KEPT_ANSWERS_BYTES) -> None:
        self._most = self._left = most_bytes
        self._lock, self._kept = Lock(), OrderedDict[object, bytes]()

    def get(self, key: object) -> bytes | None:
        """The answer kept for this question."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: object, answer: bytes) -> None:
        """Keep an answer, unless it is larger than all room there is."""
        with self._lock:
            if key in self._kept or len(answer) > self._most:
                return
            self._kept[key] = answer
            self._left -= len(answer)
            while self._left < 0:
                self._left += len(self._kept.popitem(last=False)[1])


class Table:
    """One version of output.csv, ready to be asked.

    `json` is the answer to an unfiltered GET /data; `birthts`, `birthday` (see `api.filters`) and `has_image` have one
    entry a row; `etag` is the object's.
    """

    def __init__(self, output: OutputCsv, etag: str, parts: Sequence[_Part] = ()) -> None:
        self.etag, self.answers, self._output = etag, Answers(), output
        lengths = _joined([part.line_lengths for part in parts], np.int64)
        self._lines = len(HEADER) + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self.birthts = _joined([part.birthts for part in parts], np.int64)
        self.birthday = _joined([part.birthday for part in parts], np.int32)
        self.has_image = _joined([part.has_image for part in parts], np.bool_)
        self.json = _array([part.json for part in parts])
        self._rows = _starts(parts, len(self.json))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.birthts)

    def updated(self, body: bytes, etag: str) -> "Table":
        """The table of a newer output.csv; only lines that this one has not are read.  Raises `InvalidOutputCsv`."""
        output = OutputCsv(body)
        pieces = list(difference(self._output.body, body, len(HEADER)))
        if len(pieces) * _LINES_A_PIECE > len(output):
            pieces = [body[len(HEADER) :]] if len(output) else []
        return Table(output, etag, [self._part(piece) if isinstance(piece, Kept) else _read(piece) for piece in pieces])

    def has_row(self, user_id: str) -> bool:
        """Whether this user has a row."""
        try:
            return self._output.get(user_id) is not None
        except InvalidOutputCsv:
            return False

    def rows_json(self, mask: NDArray[np.bool_]) -> bytes:
        """The JSON array of the rows that the mask names."""
        buffers = [None, pa.py_buffer(self._rows), pa.py_buffer(self.json)]
        # A million rows seen as an Arrow column, without a copy: picking from it takes nanoseconds a row.
        rows = pa.Array.from_buffers(pa.large_binary(), len(self), buffers).filter(pa.array(mask))
        if not len(rows):
            return _array([])
        _, offsets, text = rows.buffers()
        return _array([memoryview(text)[: np.frombuffer(offsets, np.int64)[len(rows)] - 2]])

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
        raise InvalidOutputCsv("some lines are no rows")
    return zip(*(frame[name].tolist() for name in COLUMNS), strict=True)


def _array(parts: Iterable[bytes | memoryview]) -> bytes:
    pieces: list[bytes | memoryview] = [b"["]
    for part in parts:
        pieces += part, b",\n"
    if len(pieces) == 1:
        return b"[]\n"
    pieces[-1] = b"]\n"
    return b"".join(pieces)


def _starts(parts: Iterable[_Part], end: int) -> NDArray[np.int64]:
    """Where each row begins in the array of these parts; at last, where a next one would."""
    starts, at = [], 1
    for part in parts:
        starts.append(part.starts + at)
        at += len(part.json) + 2
    return np.concatenate([*starts, np.array([end], np.int64)])


def _joined(columns: Sequence[NDArray[_Scalar]], kind: type[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate(columns) if columns else np.zeros(0, kind)


EMPTY = Table(OutputCsv(), "")
