"""Falcon middleware that applies `api.access` to each request, and logs writes and refusals.

No log line contains a token, a query string or a body.
"""

import logging
from urllib.parse import quote

from falcon import Request, Response

from api.access import READING, AccessRules, Decision, Outcome
from api.failures import DELAY_S, MAX_FAILURES, WINDOW_S, FailureLimiter
from api.refusals import Problem

OPEN_PATH = "/health/live"
"""The only path that needs no token, for GET and HEAD: a liveness probe has no credentials."""
MAX_SHOWN_PATH = 200
"""Characters of a path in a log line."""

logger = logging.getLogger(__name__)

_OPEN_METHODS = frozenset({"GET", "HEAD"})
_HEADER_PREFIX = "HTTP_"
_HOW_TO_WRITE = (
    "Send a write token of this Rowdrop in the header Authorization: Bearer <token>.  "
    "Valid are API_TOKEN, the API_TOKENS, and, if neither is set, the generated token."
)
_HOW_TO_READ = (
    "Only clients on the same machine may read without a token.  Send a read token or a write "
    "token of this Rowdrop in the header Authorization: Bearer <token>."
)
_WRONG = "The Authorization header is not Bearer followed by a token of this Rowdrop."
_READ_ONLY = "This token is for reading only.  A write needs API_TOKEN or one of the API_TOKENS."
_WRITES_REFUSED = (
    "Only clients on the same machine may write without a token, and no write token is set.  "
    "Set API_TOKEN for this Rowdrop."
)
_READS_REFUSED = (
    "Only clients on the same machine may read without a token, and no token is set.  "
    "Set API_TOKEN, READ_TOKENS or PUBLIC_READ=true for this Rowdrop."
)
_TOO_MANY = "Too many wrong tokens were sent from this address; retry later."
_REASONS = {
    Outcome.TOKEN_MISSING: "no token was sent",
    Outcome.TOKEN_WRONG: "the token is wrong",
    Outcome.TOKEN_READ_ONLY: "the token is for reading",
    Outcome.NO_TOKEN_SET: "no token was sent and none is set",
}


class AccessGuard:
    """Falcon middleware that runs before every route."""

    def __init__(self, rules: AccessRules, failures: FailureLimiter | None = None) -> None:
        self._rules = rules
        self._failures = FailureLimiter() if failures is None else failures

    def process_request(self, request: Request, response: Response) -> None:
        """Allow the request, or raise a 401, 403 or 429 that tells the client what to do."""
        env = request.env
        # Falcon routes by the same decoded path, so another spelling cannot reach another route.
        if request.method in _OPEN_METHODS and request.path == OPEN_PATH:
            return
        decision = self._rules.decide(
            request.method,
            env.get("HTTP_HOST"),
            (name[len(_HEADER_PREFIX) :] for name in env if name.startswith(_HEADER_PREFIX)),
            env.get("HTTP_AUTHORIZATION"),
            env.get("SERVER_PROTOCOL", ""),
        )
        if decision.outcome is not Outcome.ALLOWED:
            raise self._refuse(request, decision)
        if request.method not in READING:
            request.context.writer = decision.actor

    def process_response(self, request: Request, response: Response, resource: object, succeeded: bool) -> None:
        """Log a write that was allowed, with the status of its response."""
        writer = getattr(request.context, "writer", None)
        if writer is not None:
            logger.info("%s by %s: %d", _shown(request), writer, response.status_code)

    def _refuse(self, request: Request, decision: Decision) -> Problem:
        address = request.env.get("REMOTE_ADDR") or "an unknown address"
        # A client must not be able to flood the log.
        if self._failures.count_refusal(address) <= MAX_FAILURES:
            reason = _REASONS[decision.outcome]
            actor = f" ({decision.actor})" if decision.actor else ""
            logger.info("refused %s from %s: %s%s", _shown(request), address, reason, actor)
        if decision.outcome is Outcome.TOKEN_WRONG and not self._slow_down(address):
            return Problem("failed-tokens", _TOO_MANY, {"Retry-After": f"{DELAY_S:.0f}"})
        return _problem(decision.outcome, is_write=request.method not in READING)

    def _slow_down(self, address: str) -> bool:
        """Count a failed token, and delay the response if its address has sent too many.

        Returns False if the response should be delayed, but too many requests are delayed already.
        """
        count = self._failures.count_failed_token(address)
        if count == MAX_FAILURES:
            logger.warning(
                "%d failed tokens from %s within %.0f s: for the rest of this time, responses to "
                "its wrong tokens are delayed and its refusals are not logged; if the client is "
                "legitimate, correct its token",
                count,
                address,
                WINDOW_S,
            )
        return count <= MAX_FAILURES or self._failures.delay()


def _problem(outcome: Outcome, *, is_write: bool) -> Problem:
    if outcome is Outcome.TOKEN_READ_ONLY:
        return Problem("read-token", _READ_ONLY)
    if outcome is Outcome.NO_TOKEN_SET:
        if is_write:
            return Problem("writes-refused", _WRITES_REFUSED)
        return Problem("reads-refused", _READS_REFUSED)
    detail = _HOW_TO_WRITE if is_write else _HOW_TO_READ
    if outcome is Outcome.TOKEN_WRONG:
        detail = f"{_WRONG}  {detail}"
    return Problem("token", detail, {"WWW-Authenticate": "Bearer"})


def _shown(request: Request) -> str:
    """Return method and path for the log: printable and on one line, for any request."""
    path = quote(request.path, safe="/", errors="replace")
    return f"{request.method[:20]} {path[:MAX_SHOWN_PATH]}"
