"""Evaluate a query on a table: which rows it selects, and in which order."""

from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from api.question import Order, Question
from api.snapshot import Table

_TEXT = pa.large_string()


class Selection(NamedTuple):
    """The selected rows of one page.

    `rows`: their numbers, in order; None for all rows of the table in its own order.
    `total`: the number of rows on all pages.
    """

    rows: NDArray[np.int64] | None
    total: int


def select(table: Table, question: Question, today: date) -> Selection:
    """Return the rows that the query selects; ages are computed for the date `today` (UTC)."""
    mask = _mask(table, question, today)
    rows: NDArray[np.int64] | None
    if question.order:
        order = _order(table, question.order)
        rows = order if mask is None else order[mask[order]]
    else:
        rows = None if mask is None else mask.nonzero()[0]
    total = len(table) if rows is None else len(rows)
    if question.page.limit is None and not question.page.offset:
        return Selection(rows, total)
    if rows is None:
        return Selection(np.arange(*question.page.slice.indices(total), dtype=np.int64), total)
    return Selection(rows[question.page.slice], total)


def _mask(table: Table, question: Question, today: date) -> NDArray[np.bool_] | None:
    mask = question.filters.mask(table.has_image, table.birthday, today) if question.filters.are_given else None
    if question.search is None:
        return mask
    found = _named(table, question.search)
    return found if mask is None else mask & found


def _named(table: Table, search: str) -> NDArray[np.bool_]:
    """Return a mask of the rows with names that contain every word of the search, in any case."""
    names = table.prepared.get("names", lambda: _names(table.columns))
    mask = np.ones(len(table), np.bool_)
    for word in search.split():
        # The same function as for the names: Python's lower() differs for some characters.
        lower = pc.utf8_lower(pa.scalar(word, _TEXT)).as_py()
        mask &= pc.match_substring(names, lower).to_numpy()
    return mask


def _names(columns: pa.Table) -> pa.ChunkedArray:
    return pc.utf8_lower(
        pc.binary_join_element_wise(columns["first_name"], columns["last_name"], pa.scalar(" ", _TEXT))
    )


def _order(table: Table, order: Order) -> NDArray[np.int64]:
    """Return all row numbers in this order; rows that compare equal keep the table's order."""
    found: NDArray[np.int64] | None = table.answers.get(("order", order))
    if found is None:
        keys = [(name, "descending" if is_reverse else "ascending") for name, is_reverse in order]
        found = pc.sort_indices(table.columns, sort_keys=keys).to_numpy().astype(np.int64)
        table.answers.keep(("order", order), found, found.nbytes)
    return found
