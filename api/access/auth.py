"""Falcon middleware that applies `api.access.access_rules` to each request.

It logs writes and refusals. No log line contains a token, a query string or a body.
"""

import logging
from collections.abc import Iterable
from urllib.parse import quote

import falcon
from falcon.asgi import Request, Response

from api.access.access_rules import READ_METHODS, AccessDecision, AccessOutcome, AccessRules
from api.access.failure_limiter import (
    FAILED_TOKEN_DELAY_S,
    FAILURE_WINDOW_S,
    MAX_FAILURES,
    FailureLimiter,
)
from api.query.negotiation import prefers_html
from api.web.problems import Problem

PUBLIC_PATH = "/health/live"
"""A path that needs no token, for GET and HEAD: a liveness probe has no credentials."""
PAGE_PATH = "/"
"""In a browser this path needs no token, and neither do the files in `PAGE_FOLDER`.

The page contains no data, and it asks for the token.
"""
PAGE_FOLDER = "/page/"
EVENTS_PATH = "/events"
"""POST to this path needs `EVENTS_TOKEN`, and no other token."""
MAX_LOGGED_PATH_LENGTH = 200
"""Characters of a path in a log line."""

logger = logging.getLogger(__name__)

_PUBLIC_METHODS = frozenset({"GET", "HEAD"})
_HOW_TO_WRITE = (
    "Send a write token of this Rowdrop in the header Authorization: Bearer <token>.  "
    "Valid are API_TOKEN, the API_TOKENS, and, if neither is set, the generated token."
)
_HOW_TO_READ = (
    "Send a read token or a write token of this Rowdrop in the header "
    "Authorization: Bearer <token>."
)
_WRONG_CREDENTIALS = "The Authorization header is not Bearer followed by a token of this Rowdrop."
_READ_ONLY_CREDENTIALS = (
    "This token is for reading only.  A write needs API_TOKEN or one of the API_TOKENS."
)
_WRITES_REFUSED = "No write token is set: set API_TOKEN for this Rowdrop."
_READS_REFUSED = "No token is set: set API_TOKEN, READ_TOKENS or PUBLIC_READ=true for this Rowdrop."
_HOW_TO_SEND_EVENTS = (
    "Send the EVENTS_TOKEN of this Rowdrop in the header Authorization: Bearer <token>, or as "
    "password in the URL.  No other token is accepted for events."
)
_EVENTS_REFUSED = "No events are accepted here, because EVENTS_TOKEN is not set for this Rowdrop."
_TOO_MANY_FAILURES = "Too many wrong tokens were sent from this address; retry later."
_LOG_REASONS = {
    AccessOutcome.TOKEN_MISSING: "no token was sent",
    AccessOutcome.TOKEN_WRONG: "the token is wrong",
    AccessOutcome.TOKEN_READ_ONLY: "the token is for reading",
    AccessOutcome.NO_TOKEN_SET: "no token was sent and none is set",
}


class AuthMiddleware:
    """Falcon middleware that runs before every route."""

    def __init__(self, rules: AccessRules, limiter: FailureLimiter | None = None) -> None:
        self._rules = rules
        self._limiter = FailureLimiter() if limiter is None else limiter

    async def process_request(self, request: Request, response: Response) -> None:
        """Allow the request, or raise a 401, 403 or 429 that tells the client what to do."""
        decision = self._decide(request)
        # Falcon routes by the same decoded path.
        if decision.outcome is not AccessOutcome.ALLOWED and not _is_public(request):
            raise await self._refuse_request(request, decision)
        # For the functions below.
        request.context.access = decision
        # For `process_response`, which logs the write once its status is known.
        if request.method not in READ_METHODS:
            request.context.writer = decision.actor

    def _decide(self, request: Request) -> AccessDecision:
        authorization = request.get_header("Authorization")
        if _sends_events(request):
            return self._rules.decide_events(authorization)
        host, headers, protocol = _list_traits(request)
        return self._rules.decide(request.method, host, headers, authorization, protocol)

    async def process_response(
        self, request: Request, response: Response, resource: object, succeeded: bool
    ) -> None:
        """Log a write that was allowed, with the status of its response."""
        actor = getattr(request.context, "writer", None)
        # A store sends a request for each write to it: log only those that it must correct.
        is_routine = _sends_events(request) and succeeded
        if actor is not None and not is_routine:
            logger.info("%s by %s: %d", _format_request(request), actor, response.status_code)

    async def _refuse_request(self, request: Request, decision: AccessDecision) -> falcon.HTTPError:
        # Not `remote_addr`: it parses headers that a client may have forged.
        client = request.scope.get("client")
        address = next(iter(client)) if client else "an unknown address"
        # A client must not be able to flood the log.
        if self._limiter.count_refusal(address) <= MAX_FAILURES:
            reason = _LOG_REASONS[decision.outcome]
            actor = f" ({decision.actor})" if decision.actor else ""
            logger.info(
                "refused %s from %s: %s%s", _format_request(request), address, reason, actor
            )
        if decision.outcome is AccessOutcome.TOKEN_WRONG and not await self._limit_failures(
            address
        ):
            retry_header = {"Retry-After": f"{FAILED_TOKEN_DELAY_S:.0f}"}
            return falcon.HTTPTooManyRequests(description=_TOO_MANY_FAILURES, headers=retry_header)
        if _sends_events(request):
            return _build_events_problem(decision.outcome)
        need = self._rules.explain_token_need(request.method, *_list_traits(request))
        is_write = request.method not in READ_METHODS
        return _build_problem(decision.outcome, need or "", is_write=is_write)

    async def _limit_failures(self, address: str) -> bool:
        """Count a failed token, and delay the response if its address has sent too many.

        Returns False if the response should be delayed, but too many requests are delayed already.
        """
        count = self._limiter.count_failed_token(address)
        # Equal, not above: one warning per address and window.
        if count == MAX_FAILURES:
            logger.warning(
                "%d failed tokens from %s within %.0f s: for the rest of this time, responses to "
                "its wrong tokens are delayed and its refusals are not logged; if the client is "
                "legitimate, correct its token",
                count,
                address,
                FAILURE_WINDOW_S,
            )
        return count <= MAX_FAILURES or await self._limiter.delay_response()


def may_see_contents(request: Request) -> bool:
    """Return the `AccessDecision.may_see_contents` of this request."""
    decision: AccessDecision | None = getattr(request.context, "access", None)
    return decision is not None and decision.may_see_contents


def may_read_without_token(request: Request) -> bool:
    """Return whether the client of this read needs no token for the other routes, either."""
    decision: AccessDecision | None = getattr(request.context, "access", None)
    return decision is not None and decision.is_without_token


def was_allowed_by_token(request: Request) -> bool:
    """Return whether this request was allowed because of its token."""
    decision: AccessDecision | None = getattr(request.context, "access", None)
    return decision is not None and decision.is_by_token


def _build_problem(outcome: AccessOutcome, need: str, *, is_write: bool) -> Problem:
    """Return the refusal; `need` says why the request needs a token, if it does."""
    if outcome is AccessOutcome.TOKEN_READ_ONLY:
        return Problem("access-refused", _READ_ONLY_CREDENTIALS)
    if outcome is AccessOutcome.NO_TOKEN_SET:
        remedy = _WRITES_REFUSED if is_write else _READS_REFUSED
        return Problem("access-refused", f"{need}  {remedy}")
    wrong = _WRONG_CREDENTIALS if outcome is AccessOutcome.TOKEN_WRONG else ""
    sentences = (wrong, need, _HOW_TO_WRITE if is_write else _HOW_TO_READ)
    detail = "  ".join(filter(None, sentences))
    return Problem("token", detail, {"WWW-Authenticate": "Bearer"})


def _build_events_problem(outcome: AccessOutcome) -> Problem:
    if outcome is AccessOutcome.NO_TOKEN_SET:
        return Problem("access-refused", _EVENTS_REFUSED)
    # AWS SNS sends the user and the password of a URL only after a challenge.
    challenge = {"WWW-Authenticate": 'Bearer, Basic realm="events"'}
    return Problem("token", _HOW_TO_SEND_EVENTS, challenge)


def _list_traits(request: Request) -> tuple[str | None, Iterable[str], str]:
    """Return `Host`, the names of all headers, and the version of HTTP, for `AccessRules`."""
    protocol = f"HTTP/{request.scope['http_version']}"
    return request.get_header("Host"), request.headers, protocol


def _is_public(request: Request) -> bool:
    if request.method not in _PUBLIC_METHODS:
        return False
    if request.path == PAGE_PATH:
        return prefers_html(request.get_header("Accept"))
    return request.path == PUBLIC_PATH or request.path.startswith(PAGE_FOLDER)


def _sends_events(request: Request) -> bool:
    # Falcon's router ignores further slashes before a path, so `//events` is this route, too.
    return request.method == "POST" and request.path.lstrip("/") == EVENTS_PATH.lstrip("/")


def _format_request(request: Request) -> str:
    """Return method and path for the log: printable and on one line, for any request."""
    path = quote(request.path, safe="/", errors="replace")
    return f"{request.method[:20]} {path[:MAX_LOGGED_PATH_LENGTH]}"
