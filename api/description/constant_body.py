"""Bodies with their compressed form and their ETags, which are made once."""

import zlib

from falcon.asgi import Request, Response

from api.query.negotiation import accepts_gzip
from api.web.conditional import HeaderPairs, apply_etag, compute_etag


class ConstantBody:
    """A body with its media type and further headers, and the same body compressed by gzip."""

    def __init__(self, body: bytes, media_type: str, headers: HeaderPairs = ()) -> None:
        self.body = body
        self._media_type = media_type
        self._headers = headers
        self._gzip_body = zlib.compress(body, 9, wbits=31)
        self._etags = [compute_etag(media_type, body, is_gzip) for is_gzip in (False, True)]

    def replace(self, old: bytes, new: bytes) -> "ConstantBody":
        """Return this body with other bytes, and with their ETag. Compresses it again."""
        return ConstantBody(self.body.replace(old, new), self._media_type, self._headers)

    @property
    def gzip_bytes(self) -> int:
        """The size of the compressed body in bytes."""
        return len(self._gzip_body)

    def send(self, request: Request, response: Response) -> None:
        """Respond with the body, or with a 304 if the client has it."""
        is_gzip = accepts_gzip(request.get_header("Accept-Encoding"))
        response.append_header("Vary", "Accept-Encoding")
        if apply_etag(request, response, self._etags[is_gzip]):
            return
        response.content_type = self._media_type
        response.set_headers(self._headers)
        response.data = self._gzip_body if is_gzip else self.body
        if is_gzip:
            response.set_header("Content-Encoding", "gzip")
