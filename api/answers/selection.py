"""Find rows of a table: those that a query selects, in its order, or the one of a user."""

from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from api.query.row_query import RowQuery, SortOrder
from api.snapshot.table import SnapshotTable
from api.snapshot.view import View
from api.web.problems import Problem, build_not_ready_problem
from shared.formats.records import SEARCHED_COLUMNS

_TEXT = pa.large_string()


class Selection(NamedTuple):
    """The selected rows of one page.

    `rows`: their numbers, in order; None for all rows of the table in its own order.
    `total`: the number of rows on all pages.
    """

    rows: NDArray[np.int64] | None
    total: int


class FoundRow(NamedTuple):
    """A user's row as JSON, and its offset among all rows in the order of the table."""

    json: bytes
    offset: int


def select_rows(table: SnapshotTable, query: RowQuery, today: date) -> Selection:
    """Return the rows of the page that the query selects.

    Ages are those on the date `today` in UTC.
    """
    mask = build_row_mask(table, query, today)
    rows: NDArray[np.int64] | None
    if query.sort:
        # The order of all rows is cached, so it is filtered instead of sorting the selected rows.
        sorted_rows = _sort_rows(table, query.sort)
        rows = sorted_rows if mask is None else sorted_rows[mask[sorted_rows]]
    else:
        rows = None if mask is None else mask.nonzero()[0]
    total = table.row_count if rows is None else len(rows)
    if query.paging.limit is None and not query.paging.offset:
        return Selection(rows, total)
    if rows is None:
        return Selection(np.arange(*query.paging.as_slice.indices(total), dtype=np.int64), total)
    return Selection(rows[query.paging.as_slice], total)


def build_row_mask(table: SnapshotTable, query: RowQuery, today: date) -> NDArray[np.bool_] | None:
    """Return which rows pass the filters and the search; None if there are neither."""
    mask = None
    if query.filters.is_active:
        mask = query.filters.build_mask(table.has_image, table.birthday, today)
    if query.search is None:
        return mask
    search_mask = _match_texts(table, query.search)
    return search_mask if mask is None else mask & search_mask


def _match_texts(table: SnapshotTable, search: str) -> NDArray[np.bool_]:
    """Return a mask of the rows with texts that contain every word of the search, in any case."""
    texts = table.derived.get_or_compute("texts", lambda: _lowercase_texts(table.columns))
    mask = np.ones(table.row_count, np.bool_)
    for word in search.split():
        # The same function as for the texts: Python's lower() differs for some characters.
        lower_word = pc.utf8_lower(pa.scalar(word, _TEXT)).as_py()
        mask &= pc.match_substring(texts, lower_word).to_numpy()
    return mask


def _lowercase_texts(columns: pa.Table) -> pa.ChunkedArray:
    # A word of a search contains no blank, so it cannot match across two columns.
    separator = pa.scalar(" ", _TEXT)
    searched = [columns[name] for name in SEARCHED_COLUMNS]
    return pc.utf8_lower(pc.binary_join_element_wise(*searched, separator))


def _sort_rows(table: SnapshotTable, sort: SortOrder) -> NDArray[np.int64]:
    """Return all row numbers in this order; rows that compare equal keep the table's order."""
    sorted_rows: NDArray[np.int64] | None = table.cache.get(("order", sort))
    if sorted_rows is None:
        keys = [
            (name, "descending" if is_descending else "ascending") for name, is_descending in sort
        ]
        sorted_rows = pc.sort_indices(table.columns, sort_keys=keys).to_numpy().astype(np.int64)
        table.cache.put(("order", sort), sorted_rows, sorted_rows.nbytes)
    return sorted_rows


def require_row(view: View, user_id: str) -> FoundRow:
    """Return a user's row.

    Raises a 503 before the first publish, and a 404 without a row, with the reason if it is known.
    """
    if view.table is None:
        raise build_not_ready_problem()
    row_number = view.table.find_row(user_id)
    if row_number is None:
        raise _build_no_user_problem(view, user_id)
    return FoundRow(view.table.get_row_json(row_number), row_number)


def _build_no_user_problem(view: View, user_id: str) -> Problem:
    """Return a 404 for a user without a row; it contains the reason of a reject."""
    reject = view.rejects.get(user_id)
    if reject is None:
        return Problem("not-found", f"User {user_id[:80]!r} has no row.")
    position = reject.key if reject.line is None else f"{reject.key}, line {reject.line}"
    detail = f"User {user_id[:80]!r} has no row: {position}: {reject.reason}"
    return Problem("not-found", detail)
