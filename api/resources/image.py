"""GET /data/{user_id}/image: the image that the user's row names, if a browser may show it.

The media type is decided by the first bytes and never by the name.  A file called `.png` may
contain anything, for example HTML, and a browser would run it with the origin of this API.
"""

import json

from falcon.asgi import Request, Response

from api.answers.selection import require_row
from api.query.parameters import parse_single_values
from api.snapshot.view import ViewProvider
from api.web.problems import Problem
from api.web.transfers import ByteRange, Transfers, format_content_disposition
from shared.object_store import ObjectNotFound

# SVG is left out on purpose: it may contain scripts.
_RASTER_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class ImageResource:
    """The image of a user, either in the source bucket or its copy in the output bucket.

    `source_transfers` reads the source bucket, `copy_transfers` the output bucket.
    """

    def __init__(
        self, get_view: ViewProvider, source_transfers: Transfers, copy_transfers: Transfers
    ) -> None:
        self._get_view = get_view
        self._source_transfers = source_transfers
        self._copy_transfers = copy_transfers

    async def on_get(self, request: Request, response: Response, user_id: str) -> None:
        """Respond with the image's bytes as they are in the bucket now."""
        parse_single_values(request.params, ())
        image_path = json.loads(require_row(self._get_view(), user_id).json)["img_path"]
        if image_path is None:
            raise Problem("not-found", f"The row of {user_id[:80]!r} has no image.")
        bucket, _, key = image_path.partition("/")
        transfers = self._source_transfers
        if bucket == self._copy_transfers.bucket:
            transfers = self._copy_transfers
        try:
            first_segment = await transfers.fetch_first_segment(key, request, response)
        except ObjectNotFound:
            raise Problem("not-found", f"{image_path[:300]} no longer exists.") from None
        if first_segment is None:
            return
        media_type = detect_raster_type(first_segment.body)
        if media_type is None:
            raise Problem(
                "no-raster-image",
                f"The content of {image_path[:300]} is not PNG, JPEG, GIF or WebP.",
            )
        response.content_type = media_type
        response.set_header("Content-Disposition", format_content_disposition("inline", key))
        full_range = ByteRange(0, first_segment.size)
        transfers.send_object(request, response, key, first_segment, full_range)

    on_head = on_get


def detect_raster_type(head: bytes) -> str | None:
    """Return the media type of a raster image by its first bytes; None if it is not supported."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    for signature, media_type in _RASTER_SIGNATURES:
        if head.startswith(signature):
            return media_type
    return None
