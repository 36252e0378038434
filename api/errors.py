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

from api.figures import Trouble
from api.filters import single_values
from api.links import links
from api.question import PAGING, Page
from api.refusals import nothing_yet
from api.times import iso
from api.view import CurrentView, View
from shared.keys import bundle_key
from shared.records import Reject


class ErrorsResource:
    """Endpoint `/errors`. It answers from memory, also while Redis or MinIO is unavailable."""

    def __init__(self, current: CurrentView) -> None:
        self._current = current

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the current errors. Raises a 503 before the first publish."""
        page = Page.of(single_values(request.params, PAGING))
        view = self._current()
        if view.table is None:
            raise nothing_yet()
        problems = list(errors(view))
        response.content_type = falcon.MEDIA_JSON
        response.data = _lines(problems[page.slice])
        response.set_header("X-Total-Count", str(len(problems)))
        if link := links("/errors", request.params, page, len(problems)):
            response.set_header("Link", link)
        response.set_header("X-Ignored-Count", str(view.figures.ignored_total if view.figures else 0))
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


def errors(view: View) -> Iterable[dict[str, Any]]:
    """Yield one entry per error: rejects by user, then ignored keys, then dead letters."""
    for reject in view.rejects.values():
        yield _reject(reject, view.table is not None and view.table.has_row(reject.user_id))
    if view.figures:
        yield from (_trouble("ignored", trouble) for trouble in view.figures.ignored)
        yield from (_trouble("dead_letter", trouble) for trouble in view.figures.dead_letters)


def _reject(reject: Reject, is_held: bool) -> dict[str, Any]:
    return {
        "key": reject.key,
        # A bundle has an ID among the users, which is no user ID.
        "user_id": None if bundle_key(reject.user_id) else reject.user_id,
        "kind": "held" if is_held else "rejected",
        "reason": reject.reason,
        "line": reject.line,
        "since": iso(reject.since),
    }


def _trouble(kind: str, trouble: Trouble) -> dict[str, Any]:
    return {
        "key": trouble.key,
        "user_id": None,
        "kind": kind,
        "reason": trouble.reason,
        "line": None,
        "since": iso(trouble.since),
    }


def _lines(problems: list[dict[str, Any]]) -> bytes:
    return ("[" + ",\n".join(json.dumps(problem, ensure_ascii=False) for problem in problems) + "]\n").encode()
