"""POST /data/{user_id}: request a new read of one user's files."""

import time
from collections.abc import Callable
from urllib.parse import quote

import falcon
from falcon import Request, Response

from api.refusals import Problem
from api.waiting import BUSY, NOT_SHOWN, Waiting, wait_seconds
from shared.keys import csv_key, refusal_of
from shared.requests import Requests


class RefreshDesk:
    """Enqueues refresh requests for single users, and waits for their results.

    `enqueue` gets the user ID and the request ID.  If Redis is unavailable, `answer` raises
    `redis.exceptions.RedisError` or `kombu.exceptions.OperationalError`.
    """

    def __init__(self, requests: Requests, enqueue: Callable[[str, str], None], waiting: Waiting) -> None:
        self._requests, self._enqueue, self._waiting = requests, enqueue, waiting

    def answer(self, request: Request, response: Response, user_id: str) -> None:
        """Enqueue the request, and respond with 202 and the address of the row.

        With `?wait=`, respond with 200 once every API process serves the result.
        """
        seconds = wait_seconds(request)
        refusal = refusal_of(csv_key(user_id))
        if refusal:
            raise Problem("wrong-name", f"This cannot be a user ID: {refusal}.")
        request_id = self._requests.new_id()
        self._enqueue(user_id, request_id)
        response.set_header("Location", row_address(user_id))
        response.status, response.media = falcon.HTTP_202, {"user_id": user_id, "status": "queued"}
        if seconds:
            self._wait(request_id, user_id, time.monotonic() + seconds, response)

    def _wait(self, request_id: str, user_id: str, deadline: float, response: Response) -> None:
        with self._waiting.place() as has_room:
            if not has_room:
                response.media |= {"message": BUSY}
                return
            done = self._waiting.until(lambda: self._requests.is_published(request_id, user_id), deadline)
            if done and self._waiting.shown_by_all(deadline):
                response.status, response.media = falcon.HTTP_200, {"user_id": user_id, "status": "updated"}
            elif done:
                response.media |= {"message": NOT_SHOWN}


def row_address(user_id: str) -> str:
    """Return the address of a user's row, which need not exist yet."""
    return f"/data/{quote(user_id, safe='')}"
