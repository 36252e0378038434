"""GET /stats: the number of rows, their average age and their average birth date."""

import json
from datetime import date
from fractions import Fraction
from typing import Any

import falcon
import numpy as np
from falcon.asgi import Request, Response
from numpy.typing import NDArray

from api.answers.selection import build_row_mask
from api.answers.table_answers import Answer, TableAnswers
from api.query.filters import compute_ages
from api.query.parameters import check_encoding
from api.query.row_query import RowQuery
from api.snapshot.table import SnapshotTable
from api.web.conditional import compute_etag

NO_MATCH_MESSAGE = "Filter returned no objects"


class StatsResource:
    """GET /stats."""

    def __init__(self, answers: TableAnswers) -> None:
        self._answers = answers

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the statistics of the rows that pass the filters and the search."""
        await self._answers.respond(request, response, _build_answer)

    on_head = on_get


def _build_answer(table: SnapshotTable, request: Request, today: date) -> Answer:
    check_encoding(request.query_string)
    query = RowQuery.parse_selection(request.params)
    etag = compute_etag("stats", table.etag, _describe_filters(query), today.isoformat())
    body = json.dumps(compute_statistics(table, query, today)).encode() + b"\n"
    return Answer(etag, (("content-type", falcon.MEDIA_JSON),), body)


def _describe_filters(query: RowQuery) -> dict[str, bool | int | str]:
    search = {} if query.search is None else {"q": query.search}
    return {**query.filters.to_dict(), **search}


def compute_statistics(table: SnapshotTable, query: RowQuery, today: date) -> dict[str, Any]:
    """Return count, mean age and mean birth date of the rows that pass filters and search.

    Ages are full years on the date `today`, their mean has 2 decimals.  The mean birth date is in
    whole milliseconds since 1970 UTC.  If no row passes, both means are null.
    """
    mask = build_row_mask(table, query, today)
    rows = slice(None) if mask is None else mask
    birthday = table.birthday[rows]
    count = len(birthday)
    filter_values = _describe_filters(query)
    if not count:
        return {
            "count": 0,
            "average_age": None,
            "average_birthts": None,
            "filters": filter_values,
            "message": NO_MATCH_MESSAGE,
        }
    age_sum = int(compute_ages(birthday, today).sum(dtype=np.int64))
    return {
        "count": count,
        "average_age": round(age_sum / count, 2),
        # Exact: the sum in milliseconds may have more digits than a float holds.
        "average_birthts": round(Fraction(_sum_exactly(table.birthts[rows]), count)),
        "filters": filter_values,
    }


def _sum_exactly(values: NDArray[np.int64]) -> int:
    # An int64 sum would overflow from 37,000 birth dates in the year 9999 on:
    # the high and the low bits are summed separately.
    return (int((values >> 20).sum()) << 20) + int((values & 0xFFFFF).sum())
