"""Endpoints `/data` and `/data/{user_id}`.

GET returns the published rows, or the row of one user. POST requests a rebuild of all users, or a
refresh of one.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime

import falcon
from falcon import Request, Response

from api.conditional import apply_etag, compute_etag
from api.filters import parse_single_values
from api.refreshes import RefreshController
from api.refusals import Problem, not_ready
from api.rows import PreparedResponse, prepare_response
from api.snapshot import SnapshotTable
from api.tasks import RebuildController
from api.view import View, ViewProvider

DAY_S = 86_400


class DataResource:
    """Endpoint `/data`. `clock` returns Unix seconds; its date determines the ages."""

    def __init__(self, get_view: ViewProvider, controller: RebuildController, clock: Callable[[], float]) -> None:
        self._get_view, self._controller, self._clock = get_view, controller, clock

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with the selected rows in the requested format."""
        # The date is part of the cache key: filters by age select other rows each day.
        table, env, now = require_table(self._get_view), request.env, self._clock()
        cache_key = request.query_string, env.get("HTTP_ACCEPT"), env.get("HTTP_ACCEPT_ENCODING"), now // DAY_S
        prepared: PreparedResponse | None = table.query_cache.get(cache_key)
        selection = None
        if prepared is None:
            prepared, selection = prepare_response(table, request, utc_date(now))
            table.query_cache.put(cache_key, prepared, 1)
        prepared.send_response(request, response, table, selection)

    on_head = on_get

    def on_post(self, request: Request, response: Response) -> None:
        """Enqueue a rebuild; with the parameter `wait`, block until it is done."""
        self._controller.start_rebuild(request, response)


class UserResource:
    """Endpoint `/data/{user_id}`."""

    def __init__(self, get_view: ViewProvider, controller: RefreshController) -> None:
        self._get_view, self._controller = get_view, controller

    def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Answer with the row of one user: the same JSON object as in the array of `/data`."""
        parse_single_values(request.params, ())
        row = require_row(self._get_view(), user_id)
        if not apply_etag(request, response, compute_etag("row", row)):
            response.content_type, response.data = falcon.MEDIA_JSON, row

    on_head = on_get

    def on_post(self, request: Request, response: Response, user_id: str) -> None:
        """Request a read of the user's files; with the parameter `wait`, block until it is done."""
        self._controller.start_refresh(request, response, user_id)


def require_row(view: View, user_id: str) -> bytes:
    """Return a user's row as JSON.

    Raises a 503 before the first publish, and a 404 without a row, with the reason if it is known.
    """
    if view.table is None:
        raise not_ready()
    row_number = view.table.find_row(user_id)
    if row_number is None:
        raise no_such_user(view, user_id)
    return view.table.get_row_json(row_number)


def no_such_user(view: View, user_id: str) -> Problem:
    """Return a 404 for a user without a row; it contains the reason of a reject."""
    reject = view.rejects.get(user_id)
    if reject is None:
        return Problem("no-such-user", f"User {user_id[:80]!r} has no row.")
    position = "" if reject.line is None else f", line {reject.line}"
    return Problem("no-such-user", f"User {user_id[:80]!r} has no row: {reject.key}{position}: {reject.reason}")


def require_table(get_view: ViewProvider) -> SnapshotTable:
    """Return the table of the current snapshot. Raises a 503 before the first publish."""
    table = get_view().table
    if table is None:
        raise not_ready()
    return table


def utc_date(timestamp: float) -> date:
    """Return the UTC date of a time in Unix seconds."""
    return datetime.fromtimestamp(timestamp, UTC).date()
