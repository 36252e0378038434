"""Rebuilds, bundles that are unpacked, and sweeps, as clients see them.

POST /data requests a rebuild.  GET /tasks lists all, GET /tasks/{id} shows the progress of one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from falcon.asgi import Request, Response

from api.access import auth
from api.controllers.task_descriptions import describe_rebuild, describe_sweep, describe_unpack
from api.query.parameters import parse_single_values
from api.snapshot.view import RejectList, ViewProvider
from api.web.problems import build_no_task_problem
from api.web.thread_pool import ThreadPool
from shared.progress.rebuilds import Rebuilds
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import MAX_LISTED_BUNDLES, Unpacks, UnpackStatus, select_visible

_ACTIVE_STATES = frozenset({"unpacking", "publishing"})


class TasksResource:
    """GET /tasks, and GET /tasks/{task_id} with the suffix `task`."""

    def __init__(
        self,
        get_view: ViewProvider,
        rebuilds: Rebuilds,
        unpacks: Unpacks,
        sweeps: SweepRecord,
        redis_pool: ThreadPool,
    ) -> None:
        self._get_view = get_view
        self._rebuilds = rebuilds
        self._unpacks = unpacks
        self._sweeps = sweeps
        self._redis_pool = redis_pool

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with what is unfinished, and with the latest of what has ended."""
        parse_single_values(request.params, ())
        rejects = self._get_view().reject_list
        response.media = await self._redis_pool.run(
            self._list_tasks, rejects, auth.may_see_contents(request)
        )
        response.set_header("Cache-Control", "no-store")

    async def on_get_task(self, request: Request, response: Response, task_id: str) -> None:
        """Respond with the progress of a rebuild or of an unpack."""
        parse_single_values(request.params, ())
        rejects = self._get_view().reject_list
        response.media = await self._redis_pool.run(
            self._find_task, task_id, rejects, auth.may_see_contents(request)
        )
        response.set_header("Cache-Control", "no-store")

    on_head = on_get
    on_head_task = on_get_task

    def _list_tasks(self, rejects: RejectList, may_see_contents: bool) -> list[dict[str, Any]]:
        rebuilds = self._rebuilds.list_newest()
        ended = [status for status in rebuilds if status.finished_at is not None]
        unfinished = [describe_rebuild(status) for status in rebuilds if status not in ended]
        newest = self._unpacks.list_newest(MAX_LISTED_BUNDLES)
        active = {status.bundle for status in newest if status.state in _ACTIVE_STATES}
        # A bundle stays among the waiting ones until it is unpacked.  List it once.
        waiting_keys = [key for key in self._unpacks.list_waiting_bundles() if key not in active]
        waiting = [{"bundle": key, "state": "waiting"} for key in waiting_keys[:MAX_LISTED_BUNDLES]]
        rejected = _count_rejected(newest, rejects)
        started = [
            (
                status.started_at,
                describe_unpack(
                    status, rejected.get(status.task_id), may_see_contents=may_see_contents
                ),
            )
            for status in newest
        ]
        started += [(status.started_at, describe_rebuild(status)) for status in ended]
        started += [
            (sweep.started_at, describe_sweep(sweep)) for sweep in self._sweeps.list_history()
        ]
        started.sort(key=lambda entry: entry[0] or 0, reverse=True)
        return [*unfinished, *waiting, *(task for _, task in started)]

    def _find_task(
        self, task_id: str, rejects: RejectList, may_see_contents: bool
    ) -> dict[str, Any]:
        rebuild = self._rebuilds.status(task_id)
        if rebuild is not None:
            return describe_rebuild(rebuild)
        unpack = self._unpacks.status(task_id)
        if unpack is None:
            raise build_no_task_problem(task_id)
        rejected = _count_rejected(self._unpacks.list_newest(MAX_LISTED_BUNDLES), rejects)
        return describe_unpack(unpack, rejected.get(task_id), may_see_contents=may_see_contents)


def _count_rejected(newest: Sequence[UnpackStatus], rejects: RejectList) -> Mapping[str, int]:
    """Return the number of rejected members by task, for the visible version of each bundle.

    A reject names the bundle, and not its version.
    """
    counts = rejects.member_counts
    return {status.task_id: counts.get(status.bundle, 0) for status in select_visible(newest)}
