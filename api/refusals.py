"""Answers that say no: RFC 9457 (`application/problem+json`), all in one shape, whoever of us says it.

Each has a `type` that leads to its explanation at /docs, `title`, `status`, and `detail`: what went wrong this time and
how to ask better.  Some have more, such as the `parameter` that was wrong and what is `allowed`.
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
    """An answer that says no.  `kind` is a key of `KINDS`; `more` are further fields."""

    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None, **more: object) -> None:
        found = KINDS[kind]
        super().__init__(found.status, title=found.title, description=detail, headers=headers)
        self.kind, self.more = kind, more

    def body(self) -> dict[str, Any]:
        """The answer's fields."""
        return _body(self.kind, self.description or "", **self.more)


def _body(kind: str, detail: str, **more: object) -> dict[str, Any]:
    found = KINDS[kind]
    return {"type": f"/docs#{kind}", "title": found.title, "status": found.status, "detail": detail, **more}


def nothing_yet() -> Problem:
    """503: no output.csv was read so far."""
    return later("nothing-published", "No output.csv could be read so far; /health/ready says why.")


def later(kind: str, detail: str) -> Problem:
    """A 503 that asks to come again."""
    return Problem(kind, detail, {"Retry-After": str(RETRY_AFTER_S)})


def no_such_task(task_id: str) -> Problem:
    """404: this id was never given, or is forgotten."""
    return Problem("no-such-task", f"There is no task {task_id[:40]!r}, or it was finished more than a week ago.")


def lost() -> Problem:
    """503: a rebuild that was queued is known no more."""
    detail = "Redis was emptied meanwhile, and a sweep puts right what that may have lost; ask once more."
    return later("task-lost", detail)


def failed(task_id: str, reason: str) -> Problem:
    """500: a rebuild could not be done."""
    return Problem("rebuild-failed", f"The rebuild {task_id} failed: {reason}", task_id=task_id)


def on_wrong_parameter(request: Request, response: Response, error: WrongParameter, params: dict[str, Any]) -> NoReturn:
    """Error handler: a query string that cannot be understood."""
    raise Problem("wrong-parameter", str(error), parameter=error.name, allowed=error.allowed)


def on_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Error handler: Redis is away, and the request cannot do without."""
    raise later("redis-away", "What is published can still be read at /data and /stats; try this again later.")


def on_store_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Error handler: the object store is away, and the request cannot do without."""
    raise later("store-away", f"What is published can still be read at /data and /stats; try this again later: {error}")


def on_fault(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Error handler: whatever nobody thought of."""
    request.log_error(traceback.format_exc())
    raise Problem("our-fault", "Something failed that must not; the log of this Rowdrop says what.")


def as_problem(request: Request, response: Response, error: falcon.HTTPError) -> None:
    """Error serializer: problem+json, whatever was asked for."""
    if isinstance(error, Problem):
        answer = error.body()
    else:
        kind = OF_A_STATUS.get(error.status_code, "our-fault")
        answer = _body(kind, error.description or KINDS[kind].explanation)
    response.content_type = MEDIA_PROBLEM
    response.data = to_json(answer).encode()
    response.set_header("Cache-Control", "no-store")


def of_the_server(status: int) -> bytes:
    """The whole HTTP answer to a request that does not get as far as to the application."""
    kind = OF_A_STATUS.get(status, "our-fault")
    body = to_json(_body(kind, KINDS[kind].explanation)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_PROBLEM}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def to_json(answer: object) -> str:
    """A small answer, for people as well as for programs."""
    return json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
