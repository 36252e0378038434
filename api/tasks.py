"""Rebuilds, as clients see them: asked for by POST /data, followed at /tasks/{id}."""

import time
from collections.abc import Callable
from threading import BoundedSemaphore
from typing import Any

import falcon
from falcon import Request, Response

from api.filters import WrongParameter, single_values
from api.presence import Presence
from api.refusals import lost, no_such_task
from api.times import iso
from shared.rebuilds import Rebuilds, RebuildStatus

LONGEST_WAIT_S = 600
A_WAIT = f"a whole number of seconds from 0 to {LONGEST_WAIT_S}"
POLL_S = 0.05
BUSY = "as many requests wait in this process as it has room for; ask for the task instead"
NOT_SHOWN = "done, but some API process has not looked at the result yet"


class RebuildDesk:
    """Takes orders for rebuilds and waits for them.  Its methods raise what a Redis that is away raises.

    `enqueue` has the workers take a rebuild up.  `most_waiting` requests may wait at a time, since each holds a thread
    that answers nobody else.  `clock` gives Unix seconds.
    """

    def __init__(
        self,
        rebuilds: Rebuilds,
        enqueue: Callable[[str], None],
        presence: Presence,
        most_waiting: int,
        clock: Callable[[], float],
    ) -> None:
        self._rebuilds, self._enqueue, self._presence, self._clock = rebuilds, enqueue, presence, clock
        self._room = BoundedSemaphore(most_waiting)

    def answer(self, request: Request, response: Response) -> None:
        """POST /data."""
        seconds = _wait_seconds(request)
        task_id, new = self._rebuilds.request(self._clock())
        if new:
            self._enqueue(task_id)
        response.set_header("Location", f"/tasks/{task_id}")
        response.status = falcon.HTTP_202
        response.media = {"task_id": task_id, "status": "queued"}
        if seconds:
            self._wait(task_id, time.monotonic() + seconds, response)

    def status(self, task_id: str) -> RebuildStatus | None:
        """How far a rebuild is; None if there is none of this id."""
        return self._rebuilds.get(task_id)

    def _wait(self, task_id: str, deadline: float, response: Response) -> None:
        if not self._room.acquire(blocking=False):
            response.media |= {"message": BUSY}
            return
        try:
            status = self._finished(task_id, deadline)
            shown = status.state == "done" and self._shown_by_all(deadline)
        finally:
            self._room.release()
        _tell(status, shown, response)

    def _finished(self, task_id: str, deadline: float) -> RebuildStatus:
        while True:
            status = self.status(task_id)
            if status is None:
                raise lost()
            if status.state not in {"queued", "running"} or time.monotonic() > deadline:
                return status
            time.sleep(POLL_S)

    def _shown_by_all(self, deadline: float) -> bool:
        done = self._presence.now()
        self._presence.wake_all()
        while not self._presence.all_looked_since(done):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S / 5)
        return True


def _tell(status: RebuildStatus, shown: bool, response: Response) -> None:
    answer = progress(status)
    state = answer.pop("state")
    answer["status"] = "updated" if shown else state
    if status.state == "failed":
        response.status = falcon.HTTP_500
    elif shown:
        response.status = falcon.HTTP_200
    elif status.state == "done":
        answer["message"] = NOT_SHOWN
    response.media = answer


class TaskResource:
    """GET /tasks/{task_id}."""

    def __init__(self, desk: RebuildDesk) -> None:
        self._desk = desk

    def on_get(self, request: Request, response: Response, task_id: str) -> None:
        """How far a rebuild is."""
        single_values(request.params, ())
        status = self._desk.status(task_id)
        if status is None:
            raise no_such_task(task_id)
        response.media = progress(status)
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


def progress(status: RebuildStatus) -> dict[str, Any]:
    """A rebuild's record as it is answered; times by ISO 8601 in UTC."""
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


def _wait_seconds(request: Request) -> int:
    text = single_values(request.params, ("wait",)).get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= LONGEST_WAIT_S):
        raise WrongParameter("wait", f"{text[:40]!r} is no time to wait", A_WAIT)
    return int(text)
