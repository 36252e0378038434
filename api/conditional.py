"""ETag and If-None-Match (RFC 9110, 8.8.3 and 13.1.2) of answers that are a function of a version and a question."""

import hashlib
import re

from falcon import HTTP_304, Request, Response

_FORMAT = "1"
"""Version of the answers' form; a release that changes it changes every ETag."""
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def etag_of(*parts: object) -> str:
    """A strong ETag, with its quotes, of whatever decides the bytes of an answer."""
    digest = hashlib.sha256(repr((_FORMAT, *parts)).encode()).hexdigest()
    return f'"{digest[:32]}"'


def not_modified(request: Request, response: Response, etag: str) -> bool:
    """Give the answer its ETag; True if the client has it already, and the answer is a 304."""
    response.set_header("ETag", etag)
    response.set_header("Cache-Control", "no-cache")  # may be kept, but is asked for again: it may have changed
    known = request.get_header("If-None-Match")
    if known is None or not (known.strip() == "*" or etag in _ENTITY_TAG.findall(known)):
        return False
    response.status = HTTP_304
    return True
