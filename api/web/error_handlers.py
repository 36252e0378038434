"""Falcon error handlers: every error becomes a problem response."""

import logging
from typing import Any, NoReturn

import falcon
from falcon.asgi import Request, Response

from api.query.parameters import InvalidParameter
from api.web.problems import Problem, build_unavailable_problem

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
        "Redis does not answer.  Published rows can still be read at /data and /stats; retry this "
        "request later."
    )


async def handle_store_outage(
    request: Request, response: Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    """Handle an outage of the object store during a request that needs it: raise a 503."""
    raise build_unavailable_problem(
        "The object store does not answer, or refuses Rowdrop's credentials.  Published rows can "
        f"still be read at /data and /stats; retry later: {error}"
    )


async def handle_unexpected_error(
    request: Request, response: Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    """Handle an unexpected exception: log its traceback and raise a 500."""
    logger.error("unexpected error; the client gets a 500", exc_info=error)
    raise falcon.HTTPInternalServerError from error
