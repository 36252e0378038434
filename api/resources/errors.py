"""Endpoint `/errors`: files and events that are not in the table, or only in part, with reasons.

- `rejected`: a CSV or bundle that is not valid.
- `held`: a CSV that is not valid, while the user's last valid row stays published (the held row).
- `ignored`: a key that is neither a user file nor a bundle. The first hundred are listed, and the
  header `X-Ignored-Count` has the number of all.
- `dead_letter`: an event that could not be decoded.
"""

import json
from collections.abc import Iterable
from typing import Any

import falcon
from falcon import Request, Response

from api.query.filters import parse_single_values
from api.query.links import build_link_header
from api.query.row_query import PAGING_PARAMETERS, Paging
from api.snapshot.view import View, ViewProvider
from api.web.json_body import format_time
from api.web.problems import build_not_ready_problem
from shared.formats.records import Reject
from shared.formats.source_keys import parse_bundle_id
from shared.progress.pipeline_status import PipelineIssue


class ErrorsResource:
    """Endpoint `/errors`. It answers from memory, also while Redis or MinIO is unavailable."""

    def __init__(self, get_view: ViewProvider) -> None:
        self._get_view = get_view

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the current errors. Raises a 503 before the first publish."""
        paging = Paging.from_values(parse_single_values(request.params, PAGING_PARAMETERS))
        view = self._get_view()
        if view.table is None:
            raise build_not_ready_problem()
        entries = list(list_errors(view))
        response.content_type = falcon.MEDIA_JSON
        response.data = _encode_entries(entries[paging.as_slice])
        response.set_header("X-Total-Count", str(len(entries)))
        if link := build_link_header("/errors", request.params, paging, len(entries)):
            response.set_header("Link", link)
        ignored_count = view.pipeline_status.ignored_count if view.pipeline_status else 0
        response.set_header("X-Ignored-Count", str(ignored_count))
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


def list_errors(view: View) -> Iterable[dict[str, Any]]:
    """Yield one entry per error: rejects by user, then ignored keys, then dead letters."""
    for reject in view.rejects.values():
        is_held = view.table is not None and view.table.has_row(reject.user_id)
        yield _describe_reject(reject, is_held)
    if view.pipeline_status:
        for issue in view.pipeline_status.ignored_keys:
            yield _describe_issue("ignored", issue)
        for issue in view.pipeline_status.dead_letters:
            yield _describe_issue("dead_letter", issue)


def _describe_reject(reject: Reject, is_held: bool) -> dict[str, Any]:
    return {
        "key": reject.key,
        # A bundle has an ID among the users, which is no user ID.
        "user_id": None if parse_bundle_id(reject.user_id) else reject.user_id,
        "kind": "held" if is_held else "rejected",
        "reason": reject.reason,
        "line": reject.line,
        "since": format_time(reject.since),
    }


def _describe_issue(kind: str, issue: PipelineIssue) -> dict[str, Any]:
    return {
        "key": issue.key,
        "user_id": None,
        "kind": kind,
        "reason": issue.reason,
        "line": None,
        "since": format_time(issue.since),
    }


def _encode_entries(entries: list[dict[str, Any]]) -> bytes:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[{lines}]\n".encode()
