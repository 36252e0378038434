"""Problem documents (RFC 9457, `application/problem+json`), the one format of all error responses.

Each has a `type` that links to its explanation at /docs, `title`, `status` and `detail`: what went
wrong in this request and how to correct it.  Some have more fields, such as the `parameter` that
was wrong and what is `allowed`.
"""

import json
import traceback
from http import HTTPStatus
from typing import Any, NoReturn

import falcon
from falcon import Request, Response

from api.filters import WrongParameter
from api.problems import KINDS, MEDIA_PROBLEM, OF_A_STATUS

RETRY_AFTER_S = 2


class Problem(falcon.HTTPError):
    """An HTTP error that is sent as a problem document.

    `kind` is a key of `KINDS`; `more` are further fields of the document.
    """

    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None, **more: object) -> None:
        found = KINDS[kind]
        super().__init__(found.status, title=found.title, description=detail, headers=headers)
        self.kind, self.more = kind, more

    def body(self) -> dict[str, Any]:
        """Return the fields of the document."""
        return _body(self.kind, self.description or "", **self.more)


def _body(kind: str, detail: str, **more: object) -> dict[str, Any]:
    found = KINDS[kind]
    return {"type": f"/docs#{kind}", "title": found.title, "status": found.status, "detail": detail, **more}


def nothing_yet() -> Problem:
    """Return a 503: no output.csv has been read so far."""
    return later("nothing-published", "No output.csv has been read so far; /health/ready gives the reason.")


def later(kind: str, detail: str) -> Problem:
    """Return a 503 with `Retry-After`."""
    return Problem(kind, detail, {"Retry-After": str(RETRY_AFTER_S)})


def no_such_task(task_id: str) -> Problem:
    """Return a 404: no task ever had this ID, or its record has expired."""
    return Problem("no-such-task", f"There is no task {task_id[:40]!r}, or it finished more than a week ago.")


def lost() -> Problem:
    """Return a 503: the record of a queued rebuild no longer exists."""
    detail = (
        "Redis was emptied while the rebuild was pending, and a sweep restores what may have been "
        "lost; send the request again."
    )
    return later("task-lost", detail)


def failed(task_id: str, reason: str) -> Problem:
    """Return a 500: every attempt of a rebuild failed."""
    return Problem("rebuild-failed", f"The rebuild {task_id} failed: {reason}", task_id=task_id)


def on_wrong_parameter(request: Request, response: Response, error: WrongParameter, params: dict[str, Any]) -> NoReturn:
    """Handle an invalid query string: raise a 400."""
    raise Problem("wrong-parameter", str(error), parameter=error.name, allowed=error.allowed)


def on_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an outage of Redis during a request that needs it: raise a 503."""
    raise later("redis-away", "Published rows can still be read at /data and /stats; retry this request later.")


def on_store_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an outage of the object store during a request that needs it: raise a 503."""
    raise later("store-away", f"Published rows can still be read at /data and /stats; retry later: {error}")


def on_fault(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an unexpected exception: log its traceback and raise a 500."""
    request.log_error(traceback.format_exc())
    raise Problem("our-fault", "An unexpected error occurred; the log of this Rowdrop's API has the details.")


def as_problem(request: Request, response: Response, error: falcon.HTTPError) -> None:
    """Serialize an HTTP error as a problem document, regardless of `Accept`."""
    if isinstance(error, Problem):
        answer = error.body()
    else:
        kind = OF_A_STATUS.get(error.status_code, "our-fault")
        answer = _body(kind, error.description or KINDS[kind].explanation)
    response.content_type = MEDIA_PROBLEM
    response.data = to_json(answer).encode()
    response.set_header("Cache-Control", "no-store")


def of_the_server(status: int) -> bytes:
    """Return the complete HTTP response to a request that does not reach the application."""
    kind = OF_A_STATUS.get(status, "our-fault")
    body = to_json(_body(kind, KINDS[kind].explanation)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_PROBLEM}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def to_json(answer: object) -> str:
    """Encode a small response as JSON, indented to be readable by people, too."""
    return json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
