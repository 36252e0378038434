"""Rebuilds and bundles that are being unpacked, as clients see them.

POST /data requests a rebuild.  GET /tasks and GET /tasks/{id} show the progress of both.
"""

import time
from collections.abc import Callable
from typing import Any

import falcon
from falcon import Request, Response

from api.filters import single_values
from api.refusals import failed, lost, no_such_task
from api.times import iso
from api.waiting import BUSY, NOT_SHOWN, Waiting, wait_seconds
from shared.rebuilds import Rebuilds, RebuildStatus
from shared.unpacks import Unpacks, UnpackStatus

MOST_SHOWN = 100
"""Bundles that GET /tasks lists: at most this many waiting ones, and this many newest records."""


class RebuildDesk:
    """Requests rebuilds, and waits for their results.

    `enqueue` enqueues the task that starts a rebuild.  `clock` returns Unix seconds.  If Redis is
    unavailable, methods raise `redis.exceptions.RedisError` or `kombu.exceptions.OperationalError`.
    """

    def __init__(
        self, rebuilds: Rebuilds, enqueue: Callable[[str], None], waiting: Waiting, clock: Callable[[], float]
    ) -> None:
        self._rebuilds, self._enqueue, self._waiting, self._clock = rebuilds, enqueue, waiting, clock

    def answer(self, request: Request, response: Response) -> None:
        """Handle POST /data: request a rebuild, and wait for it if `?wait=` is given."""
        seconds = wait_seconds(request)
        task_id, new = self._rebuilds.request(self._clock())
        # Requests share a queued rebuild that has not started: it will read what is there by then.
        if new:
            self._enqueue(task_id)
        response.set_header("Location", f"/tasks/{task_id}")
        response.status = falcon.HTTP_202
        response.media = {"task_id": task_id, "status": "queued"}
        if seconds:
            self._wait(task_id, time.monotonic() + seconds, response)

    def status(self, task_id: str) -> RebuildStatus | None:
        """Return the progress of a rebuild; None if no rebuild has this ID."""
        return self._rebuilds.get(task_id)

    def unfinished(self) -> list[RebuildStatus]:
        """Return the running and the queued rebuild, as far as they exist."""
        found = [self.status(task_id) for task_id in (self._rebuilds.running(), self._rebuilds.queued()) if task_id]
        return [status for status in found if status is not None]

    def _wait(self, task_id: str, deadline: float, response: Response) -> None:
        with self._waiting.place() as has_room:
            if not has_room:
                response.media |= {"message": BUSY}
                return
            self._waiting.until(lambda: self._known(task_id).state not in {"queued", "running"}, deadline)
            status = self._known(task_id)
            shown = status.state == "done" and self._waiting.shown_by_all(deadline)
        _tell(status, shown, response)

    def _known(self, task_id: str) -> RebuildStatus:
        status = self.status(task_id)
        if status is None:
            raise lost()
        return status


def _tell(status: RebuildStatus, shown: bool, response: Response) -> None:
    if status.state == "failed":
        raise failed(status.task_id, status.error or "")
    answer = progress(status)
    state = answer.pop("state")
    answer["status"] = "updated" if shown else state
    if shown:
        response.status = falcon.HTTP_200
    elif status.state == "done":
        answer["message"] = NOT_SHOWN
    response.media = answer


class TasksResource:
    """GET /tasks."""

    def __init__(self, desk: RebuildDesk, unpacks: Unpacks) -> None:
        self._desk, self._unpacks = desk, unpacks

    def on_get(self, request: Request, response: Response) -> None:
        """Respond with the unfinished rebuilds, the waiting bundles and the latest unpacks."""
        single_values(request.params, ())
        rebuilds = [progress(status) for status in self._desk.unfinished()]
        newest = self._unpacks.newest(MOST_SHOWN)
        begun = {status.bundle for status in newest if status.state in {"unpacking", "publishing"}}
        # A bundle stays among the waiting ones until it is unpacked.  List it once.
        waiting = [key for key in self._unpacks.waiting() if key not in begun][:MOST_SHOWN]
        bundles = [{"bundle": key, "state": "waiting"} for key in waiting] + [unpacking(status) for status in newest]
        response.media = [*rebuilds, *bundles]
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


class TaskResource:
    """GET /tasks/{task_id}."""

    def __init__(self, desk: RebuildDesk, unpacks: Unpacks) -> None:
        self._desk, self._unpacks = desk, unpacks

    def on_get(self, request: Request, response: Response, task_id: str) -> None:
        """Respond with the progress of a rebuild or of an unpack."""
        single_values(request.params, ())
        response.media = self._progress(task_id)
        response.set_header("Cache-Control", "no-store")

    on_head = on_get

    def _progress(self, task_id: str) -> dict[str, Any]:
        rebuild = self._desk.status(task_id)
        if rebuild is not None:
            return progress(rebuild)
        unpack = self._unpacks.get(task_id)
        if unpack is None:
            raise no_such_task(task_id)
        return unpacking(unpack)


def progress(status: RebuildStatus) -> dict[str, Any]:
    """Return the JSON fields of a rebuild's record; times are in ISO 8601 and UTC."""
    answer = {
        "task_id": status.task_id,
        "state": status.state,
        "done": status.done,
        "total": status.total,
        "queued_at": iso(status.queued_at),
        "started_at": iso(status.started_at),
        "finished_at": iso(status.finished_at),
    }
    return answer | ({"error": status.error} if status.error else {})


def unpacking(status: UnpackStatus) -> dict[str, Any]:
    """Return the JSON fields of a bundle's unpack record; times are in ISO 8601 and UTC."""
    answer = {
        "task_id": status.task_id,
        "bundle": status.bundle,
        "state": status.state,
        "done": status.done,
        "total": status.total,
        "users": status.users,
        "published": status.published,
        "ignored": status.ignored,
        "started_at": iso(status.started_at),
        "finished_at": iso(status.finished_at),
    }
    return answer | ({"error": status.error} if status.error else {})
