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

from api.filters import InvalidParameter
from api.problems import PROBLEM_KIND_BY_STATUS, PROBLEM_KINDS, PROBLEM_MEDIA_TYPE

RETRY_AFTER_S = 2


class Problem(falcon.HTTPError):
    """An HTTP error that is sent as a problem document.

    `kind` is a key of `PROBLEM_KINDS`; `extra_fields` are further fields of the document.
    """

    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None, **extra_fields: object) -> None:
        problem_kind = PROBLEM_KINDS[kind]
        super().__init__(problem_kind.status, title=problem_kind.title, description=detail, headers=headers)
        self.kind, self.extra_fields = kind, extra_fields

    def build_body(self) -> dict[str, Any]:
        """Return the fields of the document."""
        return build_problem_body(self.kind, self.description or "", **self.extra_fields)


def build_problem_body(kind: str, detail: str, **extra_fields: object) -> dict[str, Any]:
    """Return the fields of an `application/problem+json` body (RFC 9457)."""
    problem_kind = PROBLEM_KINDS[kind]
    return {
        "type": f"/docs#{kind}",
        "title": problem_kind.title,
        "status": problem_kind.status,
        "detail": detail,
        **extra_fields,
    }


def not_ready() -> Problem:
    """Return a 503: no output.csv has been read so far."""
    return service_unavailable(
        "nothing-published", "No output.csv has been read so far; /health/ready gives the reason."
    )


def service_unavailable(kind: str, detail: str) -> Problem:
    """Return a 503 with `Retry-After`."""
    return Problem(kind, detail, {"Retry-After": str(RETRY_AFTER_S)})


def no_such_task(task_id: str) -> Problem:
    """Return a 404: no task ever had this ID, or its record has expired."""
    return Problem("no-such-task", f"There is no task {task_id[:40]!r}, or it finished more than a week ago.")


def task_lost() -> Problem:
    """Return a 503: the record of a queued rebuild no longer exists."""
    detail = (
        "Redis was emptied while the rebuild was pending, and a sweep restores what may have been "
        "lost; send the request again."
    )
    return service_unavailable("task-lost", detail)


def rebuild_failed(task_id: str, reason: str) -> Problem:
    """Return a 500: every attempt of a rebuild failed."""
    return Problem("rebuild-failed", f"The rebuild {task_id} failed: {reason}", task_id=task_id)


def handle_invalid_parameter(
    request: Request, response: Response, error: InvalidParameter, params: dict[str, Any]
) -> NoReturn:
    """Handle an invalid query string: raise a 400."""
    raise Problem("wrong-parameter", str(error), parameter=error.name, allowed=error.allowed)


def handle_redis_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an outage of Redis during a request that needs it: raise a 503."""
    raise service_unavailable(
        "redis-away", "Published rows can still be read at /data and /stats; retry this request later."
    )


def handle_store_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an outage of the object store during a request that needs it: raise a 503."""
    raise service_unavailable(
        "store-away", f"Published rows can still be read at /data and /stats; retry later: {error}"
    )


def handle_unexpected_error(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Handle an unexpected exception: log its traceback and raise a 500."""
    request.log_error(traceback.format_exc())
    raise Problem("our-fault", "An unexpected error occurred; the log of this Rowdrop's API has the details.")


def serialize_problem(request: Request, response: Response, error: falcon.HTTPError) -> None:
    """Serialize an HTTP error as a problem document, regardless of `Accept`."""
    if isinstance(error, Problem):
        body = error.build_body()
    else:
        kind = PROBLEM_KIND_BY_STATUS.get(error.status_code, "our-fault")
        body = build_problem_body(kind, error.description or PROBLEM_KINDS[kind].explanation)
    response.content_type = PROBLEM_MEDIA_TYPE
    response.data = encode_json(body).encode()
    response.set_header("Cache-Control", "no-store")


def build_raw_response(status: int) -> bytes:
    """Return the complete HTTP response to a request that does not reach the application."""
    kind = PROBLEM_KIND_BY_STATUS.get(status, "our-fault")
    body = encode_json(build_problem_body(kind, PROBLEM_KINDS[kind].explanation)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: {PROBLEM_MEDIA_TYPE}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def encode_json(body: object) -> str:
    """Encode a small response as JSON, indented to be readable by people, too."""
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"
