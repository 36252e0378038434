"""Rebuilds and bundles that are being unpacked, as clients see them.

POST /data requests a rebuild.  GET /tasks and GET /tasks/{id} show the progress of both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from falcon.asgi import Request, Response

from api.access.auth import may_see_quotes
from api.controllers.rebuild_controller import RebuildController, describe_rebuild, describe_unpack
from api.query.filters import parse_single_values
from api.snapshot.view import RejectList, ViewProvider
from api.web.problems import build_no_task_problem
from api.web.thread_pool import ThreadPool
from shared.progress.unpacks import Unpacks, UnpackStatus, select_visible

MAX_LISTED_BUNDLES = 100
"""Bundles that GET /tasks lists: at most this many waiting ones, and this many newest records."""

_ACTIVE_STATES = frozenset({"unpacking", "publishing"})


class TasksResource:
    """GET /tasks, and GET /tasks/{task_id} with the suffix `task`."""

    def __init__(
        self,
        controller: RebuildController,
        unpacks: Unpacks,
        redis_pool: ThreadPool,
        get_view: ViewProvider,
    ) -> None:
        self._controller = controller
        self._unpacks = unpacks
        self._redis_pool = redis_pool
        self._get_view = get_view

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the unfinished rebuilds, the waiting bundles and the latest unpacks."""
        parse_single_values(request.params, ())
        names_members = may_see_quotes(request)
        rejects = self._get_view().reject_list
        response.media = await self._redis_pool.run(self._list_tasks, rejects, names_members)
        response.set_header("Cache-Control", "no-store")

    async def on_get_task(self, request: Request, response: Response, task_id: str) -> None:
        """Respond with the progress of a rebuild or of an unpack."""
        parse_single_values(request.params, ())
        names_members = may_see_quotes(request)
        rejects = self._get_view().reject_list
        response.media = await self._redis_pool.run(
            self._find_task, task_id, rejects, names_members
        )
        response.set_header("Cache-Control", "no-store")

    on_head = on_get
    on_head_task = on_get_task

    def _list_tasks(self, rejects: RejectList, names_members: bool) -> list[dict[str, Any]]:
        rebuilds = [describe_rebuild(status) for status in self._controller.list_unfinished()]
        newest = self._unpacks.list_newest(MAX_LISTED_BUNDLES)
        active = {status.bundle for status in newest if status.state in _ACTIVE_STATES}
        # A bundle stays among the waiting ones until it is unpacked.  List it once.
        waiting_keys = [key for key in self._unpacks.list_waiting_bundles() if key not in active]
        waiting = [{"bundle": key, "state": "waiting"} for key in waiting_keys[:MAX_LISTED_BUNDLES]]
        rejected = _count_rejected(newest, rejects)
        unpacks = [
            describe_unpack(status, rejected.get(status.task_id), names_members=names_members)
            for status in newest
        ]
        return [*rebuilds, *waiting, *unpacks]

    def _find_task(self, task_id: str, rejects: RejectList, names_members: bool) -> dict[str, Any]:
        rebuild = self._controller.get_status(task_id)
        if rebuild is not None:
            return describe_rebuild(rebuild)
        unpack = self._unpacks.status(task_id)
        if unpack is None:
            raise build_no_task_problem(task_id)
        rejected = _count_rejected(self._unpacks.list_newest(MAX_LISTED_BUNDLES), rejects)
        return describe_unpack(unpack, rejected.get(task_id), names_members=names_members)


def _count_rejected(newest: Sequence[UnpackStatus], rejects: RejectList) -> Mapping[str, int]:
    """Return the number of rejected members by task, for the visible version of each bundle.

    A reject names the bundle, and not its version.
    """
    counts = rejects.member_counts
    return {status.task_id: counts.get(status.bundle, 0) for status in select_visible(newest)}
