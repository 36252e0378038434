"""PUT /files/{name}?wait=: wait until an uploaded file is published, and answer with its result."""

import json
import logging
from typing import Any

import falcon
from falcon.asgi import Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.controllers.refresh_controller import RefreshController
from api.snapshot.view import ViewProvider
from api.web.problems import Problem
from shared.formats.source_keys import UserFile

logger = logging.getLogger(__name__)

REDIS_UNAVAILABLE = "stored, but Redis does not answer; the row follows when it does"


class DropController:
    """Completes the responses to uploads of clients that wait."""

    def __init__(self, get_view: ViewProvider, refreshes: RefreshController) -> None:
        self._get_view = get_view
        self._refreshes = refreshes

    async def await_result(
        self, response: Response, file: UserFile, name: str, etag: str, wait_s: float
    ) -> None:
        """Wait until every API process serves the result of a stored file, at most `wait_s`.

        Then responds with 200 and the user's row. `response.media` must be set; it stays a 202
        if the time is over. Raises a 422 `Problem` if the file is rejected.
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
        result = self._find_result(file, name, etag)
        response.status = falcon.HTTP_200
        response.media |= {"status": "published", **result}

    def _find_result(self, file: UserFile, name: str, etag: str) -> dict[str, Any]:
        view = self._get_view()
        reject = view.rejects.get(file.user_id)
        row_number = view.table.find_row(file.user_id) if view.table is not None else None
        if reject is not None and (reject.key, reject.etag) == (name, etag):
            is_held = row_number is not None
            position = "" if reject.line is None else f", line {reject.line}"
            held = "; the row of its last valid version stays" if is_held else ""
            raise Problem(
                "rejected",
                f"{name[:300]!r}{position}: {reject.reason}{held}.",
                name=name,
                user_id=file.user_id,
                etag=etag,
                reason=reject.reason,
                line=reject.line,
                held=is_held,
            )
        if view.table is None or row_number is None:
            return {"row": None}
        return {"row": json.loads(view.table.get_row_json(row_number))}
