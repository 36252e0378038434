"""Conditional requests: ETag and If-None-Match (RFC 9110, 8.8.3 and 13.1.2).

Each ETag is a digest of what determines the answer, such as the snapshot's version and the query.
"""

import hashlib

from falcon import HTTP_304
from falcon.asgi import Request, Response

_ETAG_VERSION = "2"
"""Version of the format of all answers. Changing it invalidates every ETag that clients cache."""
HeaderPairs = tuple[tuple[str, str], ...]
"""Headers of an answer, with names in lower case."""


def compute_etag(*parts: object) -> str:
    """Return a strong ETag, with its quotes; `parts` must determine the bytes of the answer."""
    digest = hashlib.sha256(repr((_ETAG_VERSION, *parts)).encode()).hexdigest()
    return f'"{digest[:32]}"'


def apply_etag(request: Request, response: Response, etag: str, headers: HeaderPairs = ()) -> bool:
    """Set the ETag and `headers`; return True if the answer is a 304.

    It is a 304 if `If-None-Match` shows that the client has cached this version.
    """
    # "no-cache": clients may cache the answer but must revalidate it each time, as it may be stale.
    response.set_headers((("etag", etag), ("cache-control", "no-cache"), *headers))
    # Weak tags match, too, as RFC 9110 requires: compressing proxies make strong ETags weak (W/).
    known_etags = request.if_none_match or ()
    if "*" not in known_etags and etag.strip('"') not in known_etags:
        return False
    response.status = HTTP_304
    return True
