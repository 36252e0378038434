"""Endpoints `/data`, `/data/{user_id}` and `/changes`.

GET returns the published rows, or the row of one user. POST requests a rebuild of all users, or a
refresh of one. GET of `/changes` streams an event when rows or status change.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import falcon
from falcon.asgi import Request, Response, SSEvent

from api.answers.responses import build_rows_answer
from api.answers.selection import require_row
from api.answers.table_answers import TableAnswers
from api.controllers.rebuild_controller import RebuildController
from api.controllers.receipt_controller import ReceiptController
from api.controllers.refresh_controller import RefreshController
from api.query.parameters import parse_explain, parse_single_values
from api.resources.files import build_wrapped_body_problem, describe_request_body
from api.snapshot.changes import ChangeFeed, ViewVersions
from api.snapshot.view import ViewProvider
from api.web.conditional import apply_etag, compute_etag
from api.web.problems import build_unavailable_problem
from shared.formats.source_keys import make_csv_key


class DataResource:
    """Endpoint `/data`."""

    def __init__(self, answers: TableAnswers, controller: RebuildController) -> None:
        self._answers = answers
        self._controller = controller

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer with the selected rows in the requested format."""
        await self._answers.respond(request, response, build_rows_answer)

    on_head = on_get

    async def on_post(self, request: Request, response: Response) -> None:
        """Enqueue a rebuild; with the parameter `wait`, block until it is done."""
        _refuse_form(request, "0001.csv")
        await self._controller.start_rebuild(request, response)


class UserResource:
    """Endpoint `/data/{user_id}`."""

    def __init__(
        self, get_view: ViewProvider, controller: RefreshController, receipts: ReceiptController
    ) -> None:
        self._get_view = get_view
        self._controller = controller
        self._receipts = receipts

    async def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Answer with the row of one user: the same JSON object as in the array of `/data`.

        With `?explain=1` it has one more field: from which files the row was made, and when.
        """
        should_explain = parse_explain(request.params)
        row, offset = require_row(self._get_view(), user_id)
        response.set_header("X-Row-Offset", str(offset))
        if should_explain:
            explanation = await self._receipts.explain(user_id)
            response.media = {**json.loads(row), "explain": explanation}
            response.set_header("Cache-Control", "no-store")
            return
        if not apply_etag(request, response, compute_etag("row", row)):
            response.content_type = falcon.MEDIA_JSON
            response.data = row

    on_head = on_get

    async def on_post(self, request: Request, response: Response, user_id: str) -> None:
        """Request a read of the user's files; with the parameter `wait`, block until it is done."""
        _refuse_form(request, make_csv_key(user_id))
        await self._controller.start_refresh(request, response, user_id)


class ChangesResource:
    """Endpoint `/changes`: a stream of server-sent events."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    async def on_get(self, request: Request, response: Response) -> None:
        """Stream an event when the table changes, and one when the status does.

        Raises a 503 if this process already has as many streams as it may have.
        """
        self._set_headers(request, response)
        if self._feed.is_full:
            detail = "Too many streams are open; retry, or poll /data with its ETag."
            raise build_unavailable_problem(detail)
        response.sse = _format_events(self._feed.follow())

    async def on_head(self, request: Request, response: Response) -> None:
        """Respond with the headers of the stream."""
        self._set_headers(request, response)

    def _set_headers(self, request: Request, response: Response) -> None:
        parse_single_values(request.params, ())
        response.content_type = "text/event-stream"
        response.set_header("Cache-Control", "no-store")
        response.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back


async def _format_events(
    changes: AsyncGenerator[ViewVersions | None],
) -> AsyncGenerator[SSEvent]:
    seen: dict[str, str] = {}
    async with aclosing(changes):
        async for versions in changes:
            if versions is None:
                yield SSEvent(comment="still here")
                continue
            for name, version in versions._asdict().items():
                if seen.get(name) != version:
                    seen[name] = version
                    yield SSEvent(event=name, text=version)


def _refuse_form(request: Request, name: str) -> None:
    """Raise a 415 for a form: its sender expects that its file or its parameters have an effect.

    `name` is that of the file in the example. Other bodies are ignored.
    """
    has_body = bool(request.content_length) or request.get_header("Transfer-Encoding") is not None
    if has_body and (wrapping := describe_request_body(request)):
        raise build_wrapped_body_problem(
            f"No body is read here, and this one is {wrapping}; nothing was started. "
            "Parameters such as wait belong in the query string.",
            request,
            name,
        )
