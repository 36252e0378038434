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
from shared.progress.rebuilds import RefreshRequests


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
            detail = f"This cannot be a user ID: {refusal}."
            raise Problem("wrong-parameter", detail, parameter="user_id")
        unfinished = await self.refresh(user_id, wait_s)
        response.set_header("Location", build_row_path(user_id))
        if unfinished is None:
            response.media = {"user_id": user_id, "status": "updated"}
            return
        response.status = falcon.HTTP_202
        response.media = {"user_id": user_id, "status": "queued"}
        if unfinished:
            response.media |= {"message": unfinished}

    async def refresh(self, user_id: str, wait_s: float) -> str | None:
        """Enqueue a read of the user's files, and wait for its result.

        Returns None once every API process serves the result. Otherwise returns why the result is
        not certain to be visible yet, which is empty if the time is over.
        """
        request_id = self._requests.new_id()
        await self._redis_pool.run(self._enqueue, user_id, request_id)
        if not wait_s:
            return ""
        deadline = time.monotonic() + wait_s
        with self._waiter.hold_slot() as has_slot:
            if not has_slot:
                return TOO_MANY_WAITING
            is_published = await self._waiter.wait_until(
                lambda: self._redis_pool.run(self._requests.is_published, request_id, user_id),
                deadline,
            )
            if not is_published:
                return ""
            is_visible = await self._waiter.wait_until_visible(deadline)
        return None if is_visible else NOT_YET_VISIBLE
