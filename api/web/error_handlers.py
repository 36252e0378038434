"""Falcon error handlers: every error becomes a problem response."""

import logging
from typing import Any, NoReturn

import falcon
from falcon.asgi import Request, Response

from api.query.filters import InvalidParameter
from api.web.json_body import encode_json
from api.web.problem_kinds import PROBLEM_KIND_BY_STATUS, PROBLEM_KINDS, PROBLEM_MEDIA_TYPE
from api.web.problems import Problem, build_problem_body, build_unavailable_problem

logger = logging.getLogger(__name__)


async def handle_invalid_parameter(
    request: Request, response: Response, error: InvalidParameter, params: dict[str, Any]
) -> NoReturn:
    """Handle an invalid query string: raise a 400."""
    raise Problem("wrong-parameter", str(error), parameter=error.name, allowed=error.allowed)


async def handle_redis_outage(
    request: Request, response: Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    """Handle an outage of Redis during a request that needs it: raise a 503."""
    raise build_unavailable_problem(
        "redis-away",
        "Published rows can still be read at /data and /stats; retry this request later.",
    )


async def handle_store_outage(
    request: Request, response: Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    """Handle an outage of the object store during a request that needs it: raise a 503."""
    raise build_unavailable_problem(
        "store-away", f"Published rows can still be read at /data and /stats; retry later: {error}"
    )


async def handle_unexpected_error(
    request: Request, response: Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    """Handle an unexpected exception: log its traceback and raise a 500."""
    logger.error("unexpected error; the client gets a 500", exc_info=error)
    raise Problem(
        "our-fault", "An unexpected error occurred; the log of this Rowdrop's API has the details."
    )


def serialize_problem(request: Request, response: Response, error: falcon.HTTPError) -> None:
    """Serialize an HTTP error as a problem document, regardless of `Accept`."""
    if isinstance(error, Problem):
        body = error.build_body()
    # Falcon's own errors, for example for an unknown route or method.
    else:
        kind = PROBLEM_KIND_BY_STATUS.get(error.status_code, "our-fault")
        body = build_problem_body(kind, error.description or PROBLEM_KINDS[kind].explanation)
    response.content_type = PROBLEM_MEDIA_TYPE
    response.data = encode_json(body).encode()
    response.set_header("Cache-Control", "no-store")
