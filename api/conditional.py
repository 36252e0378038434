"""Conditional requests: ETag and If-None-Match (RFC 9110, 8.8.3 and 13.1.2).

Each ETag is a digest of what determines the answer, such as the snapshot's version and the query.
"""

import hashlib
import re

from falcon import HTTP_304, Request, Response

_FORMAT = "2"
"""Version of the format of all answers. Changing it invalidates every ETag that clients cache."""
Headers = tuple[tuple[str, str], ...]
"""Headers of an answer, with names in lower case."""
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def etag_of(*parts: object) -> str:
    """Return a strong ETag, with its quotes; `parts` must determine the bytes of the answer."""
    digest = hashlib.sha256(repr((_FORMAT, *parts)).encode()).hexdigest()
    return f'"{digest[:32]}"'


def not_modified(request: Request, response: Response, etag: str, headers: Headers = ()) -> bool:
    """Set the ETag and `headers`; return True if the answer is a 304.

    It is a 304 if `If-None-Match` shows that the client has cached this version.
    """
    # "no-cache": clients may cache the answer but must revalidate it each time, as it may be stale.
    response.set_headers((("etag", etag), ("cache-control", "no-cache"), *headers))
    if not is_known(request, etag):
        return False
    response.status = HTTP_304
    return True


def is_known(request: Request, etag: str) -> bool:
    """Return whether `If-None-Match` contains this ETag or is `*`."""
    # The comparison is weak, as RFC 9110 requires: compressing proxies make strong ETags weak (W/).
    known = request.env.get("HTTP_IF_NONE_MATCH")
    return known is not None and (known == etag or known.strip() == "*" or etag in _ENTITY_TAG.findall(known))
