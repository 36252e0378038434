"""PUT /files/{name}?wait=: wait until a user's file is published, and answer with its result."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import falcon
from falcon.asgi import Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.controllers.refresh_controller import RefreshController
from api.snapshot.table import SnapshotTable
from api.snapshot.view import View, ViewProvider
from api.web.problems import Problem
from api.web.thread_pool import ThreadPool
from shared.formats.records import Reject
from shared.formats.source_keys import UserFile

logger = logging.getLogger(__name__)

REDIS_UNAVAILABLE = "stored, but Redis does not answer; the row follows when it does"
REPLACED = "the file was replaced or deleted before it was read"
NO_ROW = "the user has no valid CSV yet"
ANOTHER_IMAGE = (
    "another image of the user is newer, or of the same second and of a format that comes first "
    "(png, jpg, jpeg)"
)


class DropController:
    """Completes the responses to uploads of clients that wait.

    `compute_pool` finds the suspicious rows of a new table.
    """

    def __init__(
        self, get_view: ViewProvider, refreshes: RefreshController, compute_pool: ThreadPool
    ) -> None:
        self._get_view = get_view
        self._refreshes = refreshes
        self._compute_pool = compute_pool

    async def await_result(
        self, response: Response, file: UserFile, name: str, etag: str, wait_s: float
    ) -> None:
        """Wait until every API process serves the result of a stored file, at most `wait_s`.

        Then responds with 200, the user's row, and `result` and `reason` as in a receipt.
        `response.media` must be set; it stays a 202 if the time is over. Raises a 422 `Problem` if
        the file is rejected.
        """
        try:
            unfinished = await self._refreshes.refresh(file.user_id, wait_s)
        except (RedisError, OperationalError, Problem) as error:
            # The file is stored and its event is on the way, so this is not an error of the upload.
            # A `Problem` means that too many requests wait for Redis.
            logger.warning("cannot wait for the result of %.80r: %s", name, error)
            unfinished = REDIS_UNAVAILABLE
        if unfinished is not None:
            response.media |= {"message": unfinished} if unfinished else {}
            return
        view = self._get_view()
        row = view.find_row(file.user_id)
        reject = view.rejects.get(file.user_id)
        raise_reject(reject, name, etag, user_id=file.user_id, is_held=row is not None)
        result, reason = await self._find_result(view, file, name, row)
        response.status = falcon.HTTP_200
        response.media |= {"status": "published", "result": result, "reason": reason, "row": row}

    async def _find_result(
        self, view: View, file: UserFile, name: str, row: dict[str, Any] | None
    ) -> tuple[str, str | None]:
        if not file.is_csv:
            return find_image_result(name, row)
        reject = view.rejects.get(file.user_id)
        # A reject of the same file is that of a newer version: see `raise_reject`.
        is_replaced = reject is not None and reject.key == name
        if row is None or view.table is None or is_replaced:
            return "superseded", REPLACED
        # The file is stored: that other requests compute much must not make it an error.
        with suppress(Problem):
            suspicion = await self._compute_pool.run(find_suspicion, view.table, file.user_id)
            if suspicion:
                return "suspicious", suspicion
        return "row", None


def raise_reject(
    reject: Reject | None, name: str, etag: str, *, user_id: str | None, is_held: bool
) -> None:
    """Raise a 422 `Problem` if the reject is that of this version of a file.

    `is_held`: the last valid version stays in use. `user_id` is None for a bundle.
    """
    if reject is None or (reject.key, reject.etag) != (name, etag):
        return
    position = "" if reject.line is None else f", line {reject.line}"
    # The reason of a bundle says it already.
    held = "; the row of its last valid version stays" if is_held and user_id else ""
    raise Problem(
        "rejected",
        f"{name[:300]!r}{position}: {reject.reason}{held}.",
        name=name,
        user_id=user_id,
        etag=etag,
        reason=reject.reason,
        line=reject.line,
        held=is_held,
    )


def find_image_result(name: str, row: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """Return the result of an image that was read, and the reason; `row` is that of its user."""
    if row is None:
        return "part", NO_ROW
    # An image copy has the name of the image.
    if str(row["img_path"]).rpartition("/")[2] != name:
        return "superseded", ANOTHER_IMAGE
    return "part", None


def find_suspicion(table: SnapshotTable, user_id: str) -> str | None:
    """Return why the row of a user is probably wrong, or None."""
    return table.suspicious_rows.find_reason(user_id)
