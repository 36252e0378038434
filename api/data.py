"""GET /data: the published rows.  POST /data: have all of them read anew.  /data/{user_id}: the same for one."""

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
    """The rows.  `clock` gives Unix seconds: it decides who is how old."""

    def __init__(self, current: CurrentView, desk: RebuildDesk, clock: Callable[[], float]) -> None:
        self._current, self._desk, self._clock = current, desk, clock

    def on_get(self, request: Request, response: Response) -> None:
        """The rows that are asked for, in the format that is asked for."""
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
        """Queue a rebuild, and wait for it if asked to."""
        self._desk.answer(request, response)


class UserResource:
    """GET and POST /data/{user_id}."""

    def __init__(self, current: CurrentView, desk: RefreshDesk) -> None:
        self._current, self._desk = current, desk

    def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """The user's row, an object as in the array."""
        single_values(request.params, ())
        answer = row_of(self._current(), user_id)
        if not not_modified(request, response, etag_of("row", answer)):
            response.content_type, response.data = falcon.MEDIA_JSON, answer

    on_head = on_get

    def on_post(self, request: Request, response: Response, user_id: str) -> None:
        """Have the user's files read anew, and wait for it if asked to."""
        self._desk.answer(request, response, user_id)


def row_of(view: View, user_id: str) -> bytes:
    """A user's row as JSON.  Raises a 404 that says what is known of such a user."""
    if view.table is None:
        raise nothing_yet()
    number = view.table.row_of(user_id)
    if number is None:
        raise no_such_user(view, user_id)
    return view.table.row_json(number)


def no_such_user(view: View, user_id: str) -> Problem:
    """404: the user has no row."""
    reject = view.rejects.get(user_id)
    if reject is None:
        return Problem("no-such-user", f"There is no row of {user_id[:80]!r}.")
    where = "" if reject.line is None else f", line {reject.line}"
    return Problem("no-such-user", f"There is no row of {user_id[:80]!r}: {reject.key}{where}: {reject.reason}")


def published_table(current: CurrentView) -> Table:
    """The newest table.  Raises a 503 before there is one."""
    table = current().table
    if table is None:
        raise nothing_yet()
    return table


def utc_date(seconds: float) -> date:
    """The date of a moment, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).date()
