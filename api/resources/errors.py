"""Endpoint `/errors`: what needs attention, with reasons: files, suspicious rows and events.

`shared.progress.pipeline_errors` lists them. The first hundred ignored keys are listed, and the
header `X-Ignored-Count` has the number of all.
"""

import json
from typing import Any

import falcon
from falcon.asgi import Request, Response

from api.access.auth import may_see_contents
from api.answers.quotes import QuoteReader
from api.query.links import build_link_header
from api.query.parameters import parse_single_values
from api.query.row_query import PAGING_PARAMETERS, Paging
from api.snapshot.table import SnapshotTable
from api.snapshot.view import View, ViewProvider
from api.web.problems import build_not_ready_problem
from api.web.thread_pool import ThreadPool
from shared.progress.pipeline_errors import count_errors, list_errors

MAX_LISTED_ERRORS = 1000
"""Errors on one page of GET /errors, also without `limit`."""


class ErrorsResource:
    """Endpoint `/errors`. It answers from memory, also while Redis or MinIO is unavailable.

    Only quotes of files are read from MinIO, for clients that may read files, while it answers.
    """

    def __init__(
        self, get_view: ViewProvider, quotes: QuoteReader, compute_pool: ThreadPool
    ) -> None:
        self._get_view = get_view
        self._quotes = quotes
        self._compute_pool = compute_pool

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the current errors. Raises a 503 before the first publish."""
        requested = Paging.from_values(parse_single_values(request.params, PAGING_PARAMETERS))
        view = self._get_view()
        if view.table is None:
            raise build_not_ready_problem()
        limit = MAX_LISTED_ERRORS
        if requested.limit is not None:
            limit = min(requested.limit, limit)
        paging = Paging(limit, requested.offset)
        response.content_type = falcon.MEDIA_JSON
        entries, total = await self._compute_pool.run(_select_page, view, view.table, paging)
        if may_see_contents(request) and view.store_error is None:
            await self._quotes.add_quotes(entries, view.rejects)
        response.data = await self._compute_pool.run(_encode_entries, entries)
        response.set_header("X-Total-Count", str(total))
        link = build_link_header("/errors", request.params, paging, total)
        if link and (requested.limit is not None or total > limit):
            response.set_header("Link", link)
        ignored_count = view.pipeline_status.ignored_count if view.pipeline_status else 0
        response.set_header("X-Ignored-Count", str(ignored_count))
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


def _select_page(
    view: View, table: SnapshotTable, paging: Paging
) -> tuple[list[dict[str, Any]], int]:
    """Return one page of the errors, and the number of all."""
    rejects = view.reject_list
    is_held = rejects.held_user_ids.__contains__
    suspicious_rows = table.suspicious_rows
    status = view.pipeline_status
    entries = list(list_errors(rejects.entries, is_held, suspicious_rows, status, paging.as_slice))
    return entries, count_errors(len(rejects.entries), suspicious_rows.entry_count, status)


def _encode_entries(entries: list[dict[str, Any]]) -> bytes:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[{lines}]\n".encode()
