"""GET /stats: the number of rows, their average age and their average birth date."""

import json
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from typing import Any

import falcon
import numpy as np
from falcon.asgi import Request, Response
from numpy.typing import NDArray

from api.answers.lookup import require_table
from api.query.filters import DAY_S, Filters, compute_ages, compute_utc_date
from api.snapshot.table import SnapshotTable
from api.snapshot.view import ViewProvider
from api.web.conditional import apply_etag, compute_etag
from api.web.thread_pool import ThreadPool

NO_MATCH_MESSAGE = "Filter returned no objects"


class StatsResource:
    """GET /stats.

    `clock` returns Unix seconds; ages depend on its UTC date.
    """

    def __init__(
        self, get_view: ViewProvider, clock: Callable[[], float], compute_pool: ThreadPool
    ) -> None:
        self._get_view = get_view
        self._clock = clock
        self._compute_pool = compute_pool

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the statistics of the rows that pass the filters."""
        table = require_table(self._get_view)
        now = self._clock()
        # The UTC date is part of the cache key, because ages change with it.
        cache_key = "stats", request.query_string, now // DAY_S
        etag_and_body: tuple[str, bytes] | None = table.query_cache.get(cache_key)
        if etag_and_body is None:
            filters = Filters.parse(request.params)
            etag_and_body = await self._compute_pool.run(
                _render_statistics, table, filters, compute_utc_date(now)
            )
            table.query_cache.put(cache_key, etag_and_body, 1)
        etag, body = etag_and_body
        if not apply_etag(request, response, etag):
            response.content_type = falcon.MEDIA_JSON
            response.data = body

    on_head = on_get


def _render_statistics(table: SnapshotTable, filters: Filters, today: date) -> tuple[str, bytes]:
    """Return the ETag and the body."""
    etag = compute_etag("stats", table.etag, filters.to_dict(), today.isoformat())
    return etag, json.dumps(compute_statistics(table, filters, today)).encode() + b"\n"


def compute_statistics(table: SnapshotTable, filters: Filters, today: date) -> dict[str, Any]:
    """Return count, mean age and mean birth date of the rows that pass the filters.

    Ages are full years on the date `today`, their mean has 2 decimals.  The mean birth date is in
    whole milliseconds since 1970 UTC.  If no row passes, both means are null.
    """
    mask = filters.build_mask(table.has_image, table.birthday, today)
    count = int(np.count_nonzero(mask))
    filter_values = filters.to_dict()
    if not count:
        return {
            "count": 0,
            "average_age": None,
            "average_birthts": None,
            "filters": filter_values,
            "message": NO_MATCH_MESSAGE,
        }
    age_sum = int(compute_ages(table.birthday[mask], today).sum(dtype=np.int64))
    return {
        "count": count,
        "average_age": round(age_sum / count, 2),
        # Exact: the sum in milliseconds may have more digits than a float holds.
        "average_birthts": round(Fraction(_sum_exactly(table.birthts[mask]), count)),
        "filters": filter_values,
    }


def _sum_exactly(values: NDArray[np.int64]) -> int:
    # An int64 sum would overflow from 37,000 birth dates in the year 9999 on:
    # the high and the low bits are summed separately.
    return (int((values >> 20).sum()) << 20) + int((values & 0xFFFFF).sum())
