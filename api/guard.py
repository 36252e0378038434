"""Who may write: whoever has the API's token; without a token, whoever reaches it, if only this machine can."""

import hmac

from falcon import Request, Response

from api.browsers import READING
from api.refusals import WRITES_REFUSED, Problem

_BEARER = "bearer "


class WriteGuard:
    """Falcon middleware in front of every request that is more than reading.

    `token`: what a client must send as `Authorization: Bearer <token>` (RFC 6750); empty for none.
    `is_reachable_from_outside`: whether other machines reach the API; then nobody may write without a token.
    """

    def __init__(self, token: str, *, is_reachable_from_outside: bool) -> None:
        self._token, self._outside = token.encode(), is_reachable_from_outside

    @property
    def refuses_all(self) -> bool:
        """Whether nobody can write as it is set now."""
        return self._outside and not self._token

    def process_request(self, request: Request, response: Response) -> None:
        """Let pass, or raise a 401 or 403 that says what to do."""
        if request.method in READING:
            return
        if self.refuses_all:
            raise Problem("writes-refused", WRITES_REFUSED)
        if self._token and not self._is_shown_by(request.get_header("Authorization") or ""):
            detail = "Send the API_TOKEN of this Rowdrop with the request, as Authorization: Bearer <token>."
            raise Problem("token", detail, {"WWW-Authenticate": "Bearer"})

    def _is_shown_by(self, authorization: str) -> bool:
        is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
        return is_bearer and hmac.compare_digest(authorization[len(_BEARER) :].strip().encode(), self._token)
