"""The parameter `wait` of requests that change something: POST, and PUT of a file."""

from falcon.asgi import Request

from api.query.parameters import InvalidParameter, parse_single_values

MAX_WAIT_S = 600
"""Seconds that a client may wait."""
ALLOWED_WAIT = f"a whole number of seconds from 0 to {MAX_WAIT_S}"


def parse_wait(request: Request) -> int:
    """Return the seconds that a client wants to wait (`?wait=`), or raise `InvalidParameter`."""
    text = parse_single_values(request.params, ("wait",)).get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= MAX_WAIT_S):
        raise InvalidParameter(
            "wait", f"{text[:40]!r} is not a number of seconds to wait", ALLOWED_WAIT
        )
    return int(text)
