"""ETag and If-None-Match (RFC 9110, 8.8.3 and 13.1.2) of answers that are a function of a version and a question."""

import hashlib
import re

from falcon import HTTP_304, Request, Response

_FORMAT = "2"
"""Version of the answers' form; a release that changes it changes every ETag."""
Headers = tuple[tuple[str, str], ...]
"""Of an answer; names in lower case."""
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def etag_of(*parts: object) -> str:
    """A strong ETag, with its quotes, of whatever decides the bytes of an answer."""
    digest = hashlib.sha256(repr((_FORMAT, *parts)).encode()).hexdigest()
    return f'"{digest[:32]}"'


def not_modified(request: Request, response: Response, etag: str, headers: Headers = ()) -> bool:
    """Give the answer its ETag, and `headers`; True if the client has it already, and the answer is a 304."""
    # It may be kept, but is to be asked for again: it may have changed.
    response.set_headers((("etag", etag), ("cache-control", "no-cache"), *headers))
    if not is_known(request, etag):
        return False
    response.status = HTTP_304
    return True


def is_known(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` says that the client has what has this ETag."""
    known = request.env.get("HTTP_IF_NONE_MATCH")
    return known is not None and (known == etag or known.strip() == "*" or etag in _ENTITY_TAG.findall(known))
