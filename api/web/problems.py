"""Problem documents (RFC 9457, `application/problem+json`), the one format of all error responses.

Each has a `type` that links to its explanation at /docs, `title`, `status` and `detail`: what went
wrong in this request and how to correct it.  Some have more fields, such as the `parameter` that
was wrong and what is `allowed`.
"""

from typing import Any

import falcon

from api.web.problem_kinds import PROBLEM_KINDS

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


def build_not_ready_problem() -> Problem:
    """Return a 503: no output.csv has been read so far."""
    return build_unavailable_problem(
        "nothing-published", "No output.csv has been read so far; /health/ready gives the reason."
    )


def build_unavailable_problem(kind: str, detail: str) -> Problem:
    """Return a 503 with `Retry-After`."""
    return Problem(kind, detail, {"Retry-After": str(RETRY_AFTER_S)})


def build_no_task_problem(task_id: str) -> Problem:
    """Return a 404: no task ever had this ID, or its record has expired."""
    return Problem(
        "no-such-task", f"There is no task {task_id[:40]!r}, or it finished more than a week ago."
    )


def build_task_lost_problem() -> Problem:
    """Return a 503: a rebuild's record vanished while the request that queued it waited for it."""
    detail = (
        "Redis was emptied while the rebuild was pending, and a sweep restores what may have been "
        "lost; request the rebuild again."
    )
    return build_unavailable_problem("task-lost", detail)


def build_rebuild_failed_problem(task_id: str, reason: str) -> Problem:
    """Return a 500: every attempt of a rebuild failed."""
    return Problem("rebuild-failed", f"The rebuild {task_id} failed: {reason}", task_id=task_id)
