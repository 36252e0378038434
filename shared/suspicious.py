"""Find suspicious rows: they are valid, so they are published, and probably wrong. Pure.

They depend only on the published table. The rules belong to the columns: `suspicions` in
`shared.formats.records`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shared.formats.records import COLUMNS, Column, LookAlikes, UnlikelyRange

CHECKED_COLUMNS = tuple(
    column.name for number, column in enumerate(COLUMNS) if column.suspicions or number == 0
)
"""The columns that `find_suspicious_rows` reads: those with rules, and the key."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SuspiciousRow(NamedTuple):
    """An entry for a row: its key, and the reason, which says what to check and what to do."""

    key: str
    reason: str


class _Rule(NamedTuple):
    column: str
    suspicion: UnlikelyRange | LookAlikes


class SuspiciousRows:
    """The suspicious rows of a table, in its order. A row has one entry per suspicious column.

    `rows` has the row of each entry, its key in the first column, and `rule_numbers` the rule by
    which it was found. Reasons are built on demand: all rows of a large table may be suspicious.
    """

    def __init__(
        self, rows: pa.Table, rules: Sequence[_Rule], rule_numbers: NDArray[np.int64]
    ) -> None:
        self._rows = rows
        self._rules = rules
        self._rule_numbers = rule_numbers

    @property
    def entry_count(self) -> int:
        """The number of entries."""
        return len(self._rule_numbers)

    def find_reason(self, key: str) -> str | None:
        """Return the reason of the first entry of this row, None without one."""
        keys = self._rows.column(0)
        index = pc.index(keys, key).as_py()
        return None if index < 0 else self.list_entries(slice(index, index + 1))[0].reason

    def list_entries(self, page: slice = slice(None)) -> list[SuspiciousRow]:
        """Return the entries on a page."""
        key_name = self._rows.column_names[0]
        rules = (self._rules[number] for number in self._rule_numbers[page])
        return [
            SuspiciousRow(row[key_name], _format_reason(rule.suspicion, row[rule.column]))
            for row, rule in zip(self._rows[page].to_pylist(), rules, strict=True)
        ]


def find_suspicious_rows(table: pa.Table, columns: Sequence[Column] = COLUMNS) -> SuspiciousRows:
    """Return the suspicious rows of a table, which has the key first, and all columns with rules.

    Takes a few ms for 100,000 rows.
    """
    rules = [_Rule(column.name, each) for column in columns for each in column.suspicions]
    found_rows = [np.zeros(0, np.int64)]
    found_by = [np.zeros(0, np.int64)]
    is_found = {column.name: np.zeros(len(table), np.bool_) for column in columns}
    for rule_number, (name, suspicion) in enumerate(rules):
        rows = _find_rows(table[name].combine_chunks(), suspicion)
        # The first rule of a column that applies counts.
        rows = rows[~is_found[name][rows]]
        is_found[name][rows] = True
        found_rows.append(rows)
        found_by.append(np.full(len(rows), rule_number))
    row_numbers = np.concatenate(found_rows)
    order = np.argsort(row_numbers, kind="stable")
    rule_numbers = np.concatenate(found_by)[order]
    return SuspiciousRows(table.take(pa.array(row_numbers[order])), rules, rule_numbers)


def _find_rows(values: pa.Array, suspicion: UnlikelyRange | LookAlikes) -> NDArray[np.int64]:
    """Return the numbers of the rows to which a rule applies, in ascending order."""
    match suspicion:
        case UnlikelyRange():
            return _find_in_range(values.to_numpy(), suspicion)
        case LookAlikes(form):
            return _find_look_alikes(values, form)


def _find_in_range(numbers: NDArray[np.int64], unlikely: UnlikelyRange) -> NDArray[np.int64]:
    is_inside = (numbers >= unlikely.first) & (numbers <= unlikely.last)
    rows: NDArray[np.int64] = np.flatnonzero(is_inside)
    if unlikely.except_multiples_of is not None:
        rows = rows[numbers[rows] % unlikely.except_multiples_of != 0]
    return rows


def _find_look_alikes(texts: pa.Array, form: str) -> NDArray[np.int64]:
    # ASCII is unchanged by every normalization, so most tables are done here.
    if pc.all(pc.string_is_ascii(texts)).as_py():
        return np.zeros(0, np.int64)
    normalized = pc.utf8_normalize(texts, form)
    # Of texts that look the same, at most one is normalized already.
    candidates = normalized.filter(pc.not_equal(normalized, texts))
    rows: NDArray[np.int64] = np.flatnonzero(pc.is_in(normalized, candidates))
    groups = normalized.take(pa.array(rows)).dictionary_encode().indices.to_numpy()
    look_alikes: NDArray[np.int64] = rows[np.bincount(groups)[groups] > 1]
    return look_alikes


def _format_reason(suspicion: UnlikelyRange | LookAlikes, value: int | str) -> str:
    if isinstance(value, int) and "{date}" in suspicion.reason:
        date = (_EPOCH + timedelta(milliseconds=value)).date()
        return suspicion.reason.replace("{date}", date.isoformat())
    return suspicion.reason
