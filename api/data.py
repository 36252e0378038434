"""Endpoints `/data` and `/data/{user_id}`.

GET returns the published rows, or the row of one user. POST requests a rebuild of all users, or a
refresh of one.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime

import falcon
from falcon import Request, Response

from api.conditional import etag_of, not_modified
from api.filters import single_values
from api.refreshes import RefreshDesk
from api.refusals import Problem, nothing_yet
from api.rows import Ready, prepare
from api.snapshot import Table
from api.tasks import RebuildDesk
from api.view import CurrentView, View

DAY_S = 86_400


class DataResource:
    """Endpoint `/data`. `clock` returns Unix seconds; its date determines the ages."""

    def __init__(self, current: CurrentView, desk: RebuildDesk, clock: Callable[[], float]) -> None:
        self._current, self._desk, self._clock = current, desk, clock

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with the selected rows in the requested format."""
        # The date is part of the cache key: filters by age select other rows each day.
        table, env, now = published_table(self._current), request.env, self._clock()
        asked = request.query_string, env.get("HTTP_ACCEPT"), env.get("HTTP_ACCEPT_ENCODING"), now // DAY_S
        ready: Ready | None = table.questions.get(asked)
        selection = None
        if ready is None:
            ready, selection = prepare(table, request, utc_date(now))
            table.questions.keep(asked, ready, 1)
        ready.send(request, response, table, selection)

    on_head = on_get

    def on_post(self, request: Request, response: Response) -> None:
        """Enqueue a rebuild; with the parameter `wait`, block until it is done."""
        self._desk.answer(request, response)


class UserResource:
    """Endpoint `/data/{user_id}`."""

    def __init__(self, current: CurrentView, desk: RefreshDesk) -> None:
        self._current, self._desk = current, desk

    def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Answer with the row of one user: the same JSON object as in the array of `/data`."""
        single_values(request.params, ())
        answer = row_of(self._current(), user_id)
        if not not_modified(request, response, etag_of("row", answer)):
            response.content_type, response.data = falcon.MEDIA_JSON, answer

    on_head = on_get

    def on_post(self, request: Request, response: Response, user_id: str) -> None:
        """Request a read of the user's files; with the parameter `wait`, block until it is done."""
        self._desk.answer(request, response, user_id)


def row_of(view: View, user_id: str) -> bytes:
    """Return a user's row as JSON.

    Raises a 503 before the first publish, and a 404 without a row, with the reason if it is known.
    """
    if view.table is None:
        raise nothing_yet()
    number = view.table.row_of(user_id)
    if number is None:
        raise no_such_user(view, user_id)
    return view.table.row_json(number)


def no_such_user(view: View, user_id: str) -> Problem:
    """Return a 404 for a user without a row; it contains the reason of a reject."""
    reject = view.rejects.get(user_id)
    if reject is None:
        return Problem("no-such-user", f"User {user_id[:80]!r} has no row.")
    where = "" if reject.line is None else f", line {reject.line}"
    return Problem("no-such-user", f"User {user_id[:80]!r} has no row: {reject.key}{where}: {reject.reason}")


def published_table(current: CurrentView) -> Table:
    """Return the table of the current snapshot. Raises a 503 before the first publish."""
    table = current().table
    if table is None:
        raise nothing_yet()
    return table


def utc_date(seconds: float) -> date:
    """Return the UTC date of a time in Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).date()
