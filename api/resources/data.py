"""Endpoints `/data` and `/data/{user_id}`.

GET returns the published rows, or the row of one user. POST requests a rebuild of all users, or a
refresh of one.
"""

from collections.abc import Callable

import falcon
from falcon.asgi import Request, Response

from api.answers.lookup import require_row, require_table
from api.answers.responses import PreparedResponse, prepare_response
from api.controllers.rebuild_controller import RebuildController
from api.controllers.refresh_controller import RefreshController
from api.query.filters import DAY_S, compute_utc_date, parse_single_values
from api.snapshot.view import ViewProvider
from api.web.conditional import apply_etag, compute_etag
from api.web.thread_pool import ThreadPool


class DataResource:
    """Endpoint `/data`. `clock` returns Unix seconds; its date determines the ages."""

    def __init__(
        self,
        get_view: ViewProvider,
        controller: RebuildController,
        clock: Callable[[], float],
        compute_pool: ThreadPool,
    ) -> None:
        self._get_view = get_view
        self._controller = controller
        self._clock = clock
        self._compute_pool = compute_pool

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer with the selected rows in the requested format."""
        # The date is part of the cache key: filters by age select other rows each day.
        table = require_table(self._get_view)
        now = self._clock()
        cache_key = (
            request.query_string,
            request.get_header("Accept"),
            request.get_header("Accept-Encoding"),
            now // DAY_S,
        )
        prepared: PreparedResponse | None = table.query_cache.get(cache_key)
        selection = None
        if prepared is None:
            today = compute_utc_date(now)
            selected = await self._compute_pool.run(prepare_response, table, request, today)
            prepared, selection = selected
            # Weight 1, because this cache is limited by the number of its entries.
            table.query_cache.put(cache_key, prepared, 1)
        await prepared.send_response(request, response, table, selection, self._compute_pool)

    on_head = on_get

    async def on_post(self, request: Request, response: Response) -> None:
        """Enqueue a rebuild; with the parameter `wait`, block until it is done."""
        await self._controller.start_rebuild(request, response)


class UserResource:
    """Endpoint `/data/{user_id}`."""

    def __init__(self, get_view: ViewProvider, controller: RefreshController) -> None:
        self._get_view = get_view
        self._controller = controller

    async def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Answer with the row of one user: the same JSON object as in the array of `/data`."""
        parse_single_values(request.params, ())
        row = require_row(self._get_view(), user_id)
        if not apply_etag(request, response, compute_etag("row", row)):
            response.content_type = falcon.MEDIA_JSON
            response.data = row

    on_head = on_get

    async def on_post(self, request: Request, response: Response, user_id: str) -> None:
        """Request a read of the user's files; with the parameter `wait`, block until it is done."""
        await self._controller.start_refresh(request, response, user_id)
