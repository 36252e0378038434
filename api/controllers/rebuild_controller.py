"""Start rebuilds for POST /data, and wait for their results."""

import time
from collections.abc import Callable

import falcon
from falcon.asgi import Request, Response

from api.controllers.completion_waiter import NOT_YET_VISIBLE, TOO_MANY_WAITING, CompletionWaiter
from api.controllers.task_descriptions import describe_rebuild
from api.query.wait_query import parse_wait
from api.web.problems import build_rebuild_failed_problem, build_task_lost_problem
from api.web.thread_pool import ThreadPool
from shared.progress.rebuilds import Rebuilds, RebuildStatus


class RebuildController:
    """Requests rebuilds, and waits for their results.

    `enqueue` enqueues the task that starts a rebuild.  `clock` returns Unix seconds.
    `redis_pool` runs what waits for Redis.  If Redis is unavailable, methods raise
    `redis.exceptions.RedisError` or `kombu.exceptions.OperationalError`.
    """

    def __init__(
        self,
        rebuilds: Rebuilds,
        enqueue: Callable[[str], None],
        waiter: CompletionWaiter,
        clock: Callable[[], float],
        redis_pool: ThreadPool,
    ) -> None:
        self._rebuilds = rebuilds
        self._enqueue = enqueue
        self._waiter = waiter
        self._clock = clock
        self._redis_pool = redis_pool

    async def start_rebuild(self, request: Request, response: Response) -> None:
        """Handle POST /data: request a rebuild, and wait for it if `?wait=` is given.

        Raises `InvalidParameter`. While waiting, raises a 500 `Problem` if the rebuild fails, and a
        503 one if its record is lost.
        """
        wait_s = parse_wait(request)
        task_id, is_new = await self._redis_pool.run(self._rebuilds.request, self._clock())
        # Requests share a queued rebuild that has not started: it will read what is there by then.
        if is_new:
            await self._redis_pool.run(self._enqueue, task_id)
        response.set_header("Location", f"/tasks/{task_id}")
        response.status = falcon.HTTP_202
        response.media = {"task_id": task_id, "status": "queued"}
        if wait_s:
            await self._wait_until_done(task_id, time.monotonic() + wait_s, response)

    async def _wait_until_done(self, task_id: str, deadline: float, response: Response) -> None:
        with self._waiter.hold_slot() as has_slot:
            if not has_slot:
                response.media |= {"message": TOO_MANY_WAITING}
                return

            async def has_ended() -> bool:
                status = await self._require_status(task_id)
                return status.state not in {"queued", "running"}

            await self._waiter.wait_until(has_ended, deadline)
            status = await self._require_status(task_id)
            is_visible = status.state == "done" and await self._waiter.wait_until_visible(deadline)
        _send_status(status, is_visible, response)

    async def _require_status(self, task_id: str) -> RebuildStatus:
        status = await self._redis_pool.run(self._rebuilds.status, task_id)
        # A record outlives every wait, so it is missing only if Redis was emptied.
        if status is None:
            raise build_task_lost_problem()
        return status


def _send_status(status: RebuildStatus, is_visible: bool, response: Response) -> None:
    if status.state == "failed":
        raise build_rebuild_failed_problem(status.task_id, status.error or "")
    body = describe_rebuild(status)
    state = body.pop("state")
    body["status"] = "updated" if is_visible else state
    if is_visible:
        response.status = falcon.HTTP_200
    elif status.state == "done":
        body["message"] = NOT_YET_VISIBLE
    response.media = body
