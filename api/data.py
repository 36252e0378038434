"""GET /data: the published rows.  POST /data: have all of them read anew."""

from collections.abc import Callable
from datetime import UTC, date, datetime

from falcon import Request, Response

from api.conditional import etag_of, not_modified
from api.filters import Filters
from api.refusals import nothing_yet
from api.snapshot import Table
from api.tasks import RebuildDesk
from api.view import CurrentView


class DataResource:
    """The rows.  `clock` gives Unix seconds: it decides who is how old."""

    def __init__(self, current: CurrentView, desk: RebuildDesk, clock: Callable[[], float]) -> None:
        self._current, self._desk, self._clock = current, desk, clock

    def on_get(self, request: Request, response: Response) -> None:
        """All rows that pass the filters."""
        filters = Filters.parse(request.params)
        table = published_table(self._current)
        today = utc_date(self._clock())
        etag = etag_of("data", table.etag, filters.given(), today.isoformat() if filters.by_age else None)
        if not not_modified(request, response, etag):
            response.data = rows(table, filters, today, etag) if filters.given() else table.json

    on_head = on_get

    def on_post(self, request: Request, response: Response) -> None:
        """Queue a rebuild, and wait for it if asked to."""
        self._desk.answer(request, response)


def rows(table: Table, filters: Filters, today: date, etag: str) -> bytes:
    """The JSON array of the rows that pass."""
    answer = table.answers.get(etag)
    if answer is None:
        answer = table.rows_json(filters.mask(table.has_image, table.birthday, today))
        table.answers.keep(etag, answer)
    return answer


def published_table(current: CurrentView) -> Table:
    """The newest table.  Raises a 503 before there is one."""
    table = current().table
    if table is None:
        raise nothing_yet()
    return table


def utc_date(seconds: float) -> date:
    """The date of a moment, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).date()
