"""POST /data/{user_id}: request a new read of one user's files."""

import time
from collections.abc import Callable

import falcon
from falcon.asgi import Request, Response

from api.controllers.completion_waiter import NOT_YET_VISIBLE, TOO_MANY_WAITING, CompletionWaiter
from api.query.links import build_row_path
from api.query.wait_query import parse_wait
from api.web.problems import Problem
from api.web.thread_pool import ThreadPool
from shared.formats.source_keys import explain_unusable_name, make_csv_key
from shared.progress.refresh_requests import RefreshRequests


class RefreshController:
    """Enqueues refresh requests for single users, and waits for their results.

    `enqueue` gets the user ID and the request ID.  `redis_pool` runs what waits for Redis.
    If Redis is unavailable, `start_refresh` raises
    `redis.exceptions.RedisError` or `kombu.exceptions.OperationalError`.
    """

    def __init__(
        self,
        requests: RefreshRequests,
        enqueue: Callable[[str, str], None],
        waiter: CompletionWaiter,
        redis_pool: ThreadPool,
    ) -> None:
        self._requests = requests
        self._enqueue = enqueue
        self._waiter = waiter
        self._redis_pool = redis_pool

    async def start_refresh(self, request: Request, response: Response, user_id: str) -> None:
        """Enqueue the request, and respond with 202 and the address of the row.

        With `?wait=`, respond with 200 once every API process serves the result. Raises
        `InvalidParameter`, and a 400 `Problem` if no file of a user with this ID would be read.
        """
        wait_s = parse_wait(request)
        refusal = explain_unusable_name(make_csv_key(user_id))
        if refusal:
            raise Problem("wrong-name", f"This cannot be a user ID: {refusal}.")
        request_id = self._requests.new_id()
        await self._redis_pool.run(self._enqueue, user_id, request_id)
        response.set_header("Location", build_row_path(user_id))
        # The response unless the result becomes visible during the wait.
        response.status = falcon.HTTP_202
        response.media = {"user_id": user_id, "status": "queued"}
        if wait_s:
            deadline = time.monotonic() + wait_s
            await self._wait_until_published(request_id, user_id, deadline, response)

    async def _wait_until_published(
        self, request_id: str, user_id: str, deadline: float, response: Response
    ) -> None:
        with self._waiter.hold_slot() as has_slot:
            if not has_slot:
                response.media |= {"message": TOO_MANY_WAITING}
                return
            is_published = await self._waiter.wait_until(
                lambda: self._redis_pool.run(self._requests.is_published, request_id, user_id),
                deadline,
            )
            if is_published and await self._waiter.wait_until_visible(deadline):
                response.status = falcon.HTTP_200
                response.media = {"user_id": user_id, "status": "updated"}
            elif is_published:
                response.media |= {"message": NOT_YET_VISIBLE}
