"""GET /data/{user_id}/image: the image that the user's row names, if a browser may show it.

The media type is decided by the first bytes and never by the name.  A file called `.png` may
contain anything, for example HTML, and a browser would run it with the origin of this API.
"""

import json

from falcon import Request, Response

from api.data import row_of
from api.files import disposition
from api.filters import single_values
from api.refusals import Problem
from api.transfers import Span, Transfers
from api.view import CurrentView
from shared.object_store import ObjectNotFound

# SVG is left out on purpose: it may contain scripts.
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class ImageResource:
    """The image of a user, either in the source bucket or its copy in the output bucket.

    `transfers` reads the source bucket, `copies` the output bucket.
    """

    def __init__(self, current: CurrentView, transfers: Transfers, copies: Transfers) -> None:
        self._current, self._transfers, self._copies = current, transfers, copies

    def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Respond with the image's bytes as they are in the bucket now."""
        single_values(request.params, ())
        path = json.loads(row_of(self._current(), user_id))["img_path"]
        if path is None:
            raise _no_such_image(f"The row of {user_id[:80]!r} has no image.")
        bucket, _, key = path.partition("/")
        transfers = self._copies if bucket == self._copies.bucket else self._transfers
        try:
            first = transfers.first(key, request, response)
        except ObjectNotFound:
            raise _no_such_image(f"{path[:300]} no longer exists.") from None
        if first is None:
            return
        kind = raster_type(first.body)
        if kind is None:
            raise Problem("no-raster-image", f"The content of {path[:300]} is not PNG, JPEG, GIF or WebP.")
        response.content_type = kind
        response.set_header("Content-Disposition", disposition("inline", key))
        transfers.send(request, response, key, first, Span(0, first.size))

    on_head = on_get


def raster_type(beginning: bytes) -> str | None:
    """Return the media type of a raster image by its first bytes; None if it is not supported."""
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _KINDS if beginning.startswith(start)), None)


def _no_such_image(detail: str) -> Problem:
    return Problem("no-such-image", detail)
