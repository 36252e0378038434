"""The parameter `wait` of POST requests."""

from falcon.asgi import Request

from api.query.filters import InvalidParameter, parse_single_values

MAX_WAIT_S = 600
"""Seconds that a client may wait."""
ALLOWED_WAIT = f"a whole number of seconds from 0 to {MAX_WAIT_S}"


def parse_wait(parameters: Request) -> int:
    """Return the seconds that a client wants to wait (`?wait=`), or raise `InvalidParameter`."""
    text = parse_single_values(parameters.params, ("wait",)).get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= MAX_WAIT_S):
        raise InvalidParameter(
            "wait", f"{text[:40]!r} is not a number of seconds to wait", ALLOWED_WAIT
        )
    return int(text)
