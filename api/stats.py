"""GET /stats: the number of rows, their average age and their average birth date."""

import json
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from typing import Any

import falcon
import numpy as np
from falcon import Request, Response
from numpy.typing import NDArray

from api.conditional import etag_of, not_modified
from api.data import DAY_S, published_table, utc_date
from api.filters import Filters, ages
from api.snapshot import Table
from api.view import CurrentView

NO_OBJECTS = "Filter returned no objects"


class StatsResource:
    """GET /stats.

    `clock` returns Unix seconds; ages depend on its UTC date.
    """

    def __init__(self, current: CurrentView, clock: Callable[[], float]) -> None:
        self._current, self._clock = current, clock

    def on_get(self, request: Request, response: Response) -> None:
        """Respond with the statistics of the rows that pass the filters."""
        table, now = published_table(self._current), self._clock()
        # The UTC date is part of the cache key, because ages change with it.
        asked = "stats", request.query_string, now // DAY_S
        ready: tuple[str, bytes] | None = table.questions.get(asked)
        if ready is None:
            ready = _answer(table, Filters.parse(request.params), utc_date(now))
            table.questions.keep(asked, ready, 1)
        etag, answer = ready
        if not not_modified(request, response, etag):
            response.content_type, response.data = falcon.MEDIA_JSON, answer

    on_head = on_get


def _answer(table: Table, filters: Filters, today: date) -> tuple[str, bytes]:
    """Return the ETag and the body."""
    etag = etag_of("stats", table.etag, filters.given(), today.isoformat())
    return etag, json.dumps(statistics(table, filters, today)).encode() + b"\n"


def statistics(table: Table, filters: Filters, today: date) -> dict[str, Any]:
    """Return count, mean age and mean birth date of the rows that pass the filters.

    Ages are full years on the date `today`, their mean has 2 decimals.  The mean birth date is in
    whole milliseconds since 1970 UTC.  If no row passes, both means are null.
    """
    mask = filters.mask(table.has_image, table.birthday, today)
    count, given = int(np.count_nonzero(mask)), filters.given()
    if not count:
        return {
            "count": 0,
            "average_age": None,
            "average_birthts": None,
            "filters": given,
            "message": NO_OBJECTS,
        }
    return {
        "count": count,
        "average_age": round(int(ages(table.birthday[mask], today).sum(dtype=np.int64)) / count, 2),
        # Exact: the sum in milliseconds may have more digits than a float holds.
        "average_birthts": round(Fraction(_exact_sum(table.birthts[mask]), count)),
        "filters": given,
    }


def _exact_sum(values: NDArray[np.int64]) -> int:
    # An int64 sum would overflow from 37,000 birth dates in the year 9999 on:
    # the high and the low bits are summed separately.
    return (int((values >> 20).sum()) << 20) + int((values & 0xFFFFF).sum())
