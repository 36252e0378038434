"""Problem documents (RFC 9457, `application/problem+json`), the format of error responses.

Each has a `type`, `title`, `status` and `detail`: what went wrong in this request and how to
correct it.  A `Problem` has a type that links to its explanation at /docs.  Some have more fields,
such as the `parameter` that was wrong and what is `allowed`.  For every other error raise Falcon's
exception: its type is `about:blank`, and its title that of the HTTP status.
"""

from typing import Any

import falcon

from api.web.problem_kinds import PLAIN_TYPE, PROBLEM_KINDS, STATUS_EXPLANATIONS
from shared.text import format_count

RETRY_AFTER_S = 2
"""Seconds after which a client may retry a request that was refused with a 503."""


class Problem(falcon.HTTPError):
    """An HTTP error that is sent as a problem document.

    `kind` is a key of `PROBLEM_KINDS`, any other one raises `KeyError`. `detail` says what went
    wrong in this request. `extra_fields` are further fields of the document, which JSON can encode.
    """

    def __init__(
        self, kind: str, detail: str, headers: dict[str, str] | None = None, **extra_fields: object
    ) -> None:
        problem_kind = PROBLEM_KINDS[kind]
        super().__init__(
            problem_kind.status, title=problem_kind.title, description=detail, headers=headers
        )
        self.kind = kind
        self.extra_fields = extra_fields

    def build_body(self) -> dict[str, Any]:
        """Return the fields of the document."""
        return {
            "type": f"/docs#{self.kind}",
            "title": self.title,
            "status": self.status_code,
            "detail": self.description,
            **self.extra_fields,
        }


def get_status_title(status: int) -> str:
    """Return the title of an HTTP status: `Not Found` for 404."""
    code_and_title: str = falcon.code_to_http_status(status)
    return code_and_title.partition(" ")[2]


def build_plain_body(status: int, detail: str | None = None) -> dict[str, Any]:
    """Return the fields of the document of an error that is no `Problem`.

    Without a detail it is the explanation of the status.
    """
    return {
        "type": PLAIN_TYPE,
        "title": get_status_title(status),
        "status": status,
        "detail": detail or STATUS_EXPLANATIONS.get(status, get_status_title(status)),
    }


def build_error_body(error: falcon.HTTPError) -> dict[str, Any]:
    """Return the fields of the document of any HTTP error."""
    if isinstance(error, Problem):
        return error.build_body()
    return build_plain_body(error.status_code, error.description)


def build_not_ready_problem() -> Problem:
    """Return a 503: no output.csv has been read so far."""
    return build_unavailable_problem(
        "No output.csv has been read so far; /health/ready gives the reason."
    )


def build_unavailable_problem(detail: str) -> Problem:
    """Return a 503 with `Retry-After`."""
    return Problem("unavailable", detail, {"Retry-After": str(RETRY_AFTER_S)})


def build_too_large_problem(length: int, max_bytes: int, what: str = "file") -> Problem:
    """Return a 413 for a file, or another body, of `length` bytes."""
    detail = f"The {what} has {format_count(length, 'byte')}; the limit is {max_bytes:,}."
    return Problem("too-large", detail, most_bytes=max_bytes)


def build_no_task_problem(task_id: str) -> Problem:
    """Return a 404: no task ever had this ID, or its record has expired."""
    return Problem(
        "not-found", f"There is no task {task_id[:40]!r}, or it finished more than a week ago."
    )


def build_task_lost_problem() -> Problem:
    """Return a 503: a rebuild's record vanished while the request that queued it waited for it."""
    detail = (
        "Redis was emptied while the rebuild was pending, and a sweep restores what may have been "
        "lost; request the rebuild again."
    )
    return build_unavailable_problem(detail)


def build_rebuild_failed_problem(task_id: str, reason: str) -> Problem:
    """Return a 500: every attempt of a rebuild failed."""
    return Problem("rebuild-failed", f"The rebuild {task_id} failed: {reason}", task_id=task_id)
