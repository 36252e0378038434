"""GET /data/{user_id}/image: the image that the user's row names, if it is one that a browser may show.

What is shown is decided by its first bytes and never by its name: a file that says `.png` may hold anything, and what
is served from here has our origin.
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

_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class ImageResource:
    """The image of a user: in the source bucket, or the copy in the output bucket that `copies` has."""

    def __init__(self, current: CurrentView, transfers: Transfers, copies: Transfers) -> None:
        self._current, self._transfers, self._copies = current, transfers, copies

    def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Its bytes, as they are in the bucket now."""
        single_values(request.params, ())
        path = json.loads(row_of(self._current(), user_id))["img_path"]
        if path is None:
            raise _no_such_image(f"The row of {user_id[:80]!r} has no image.")
        bucket, _, key = path.partition("/")
        transfers = self._copies if bucket == self._copies.bucket else self._transfers
        try:
            first = transfers.first(key, request, response)
        except ObjectNotFound:
            raise _no_such_image(f"{path[:300]} is not there any more.") from None
        if first is None:
            return
        kind = raster_type(first.body)
        if kind is None:
            raise Problem("no-raster-image", f"{path[:300]} is neither PNG nor JPEG, GIF or WebP by what is in it.")
        response.content_type = kind
        response.set_header("Content-Disposition", disposition("inline", key))
        transfers.send(request, response, key, first, Span(0, first.size))

    on_head = on_get


def raster_type(beginning: bytes) -> str | None:
    """The media type of a raster image, by its first bytes; None if it is none that is shown."""
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _KINDS if beginning.startswith(start)), None)


def _no_such_image(detail: str) -> Problem:
    return Problem("no-such-image", detail)
