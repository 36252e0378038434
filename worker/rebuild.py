"""The full rebuild: the same refresh, for everyone.  It merges into what is published and never starts from empty.

Everyone is who has a row, a reject or a mark, and whoever else is found in the bucket on the way: the pages cover the
whole range of keys, each looks with its own LIST, begun after its users' tokens were noted.
"""

import logging
import time
from collections.abc import Callable, Sequence

from shared.object_store import ObjectStore
from shared.output_csv import OutputCsv
from shared.rebuilds import Rebuilds
from shared.task_queue import TaskQueue
from worker.backlog import Backlog, Page, pages
from worker.published_files import read_published
from worker.refresh import Refresher, span

logger = logging.getLogger(__name__)

PAGES_AHEAD = 2


class Rebuild:
    """Runs rebuilds, one at a time.  `clock` gives Unix seconds."""

    def __init__(
        self,
        output: ObjectStore,
        backlog: Backlog,
        tasks: TaskQueue,
        rebuilds: Rebuilds,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output, self._backlog, self._tasks, self._rebuilds, self._clock = output, backlog, tasks, rebuilds, clock

    def start(self, task_id: str) -> None:
        """Take a queued rebuild up, or resume it: name everyone, in pages.  Raises `StoreUnavailable`."""
        if not self._rebuilds.start(task_id, self._clock()) or self._rebuilds.named(task_id):
            return
        published = read_published(self._output)
        users = {row.user_id for row in OutputCsv(published.output).rows()}
        users |= published.rejects.keys() | self._backlog.dirty_users()
        ranges = covering(pages(users))
        self._rebuilds.set_pages(task_id, [page.to_json() for page in ranges], len(users))
        logger.info("rebuild %s users=%d", task_id, len(users))
        for _ in range(min(PAGES_AHEAD, len(ranges))):
            self._tasks.refresh_page()

    def found(self, user_ids: Sequence[str]) -> None:
        """Count in, and read, users whom nobody had named."""
        running = self._rebuilds.running()
        if running:
            self._rebuilds.add_total(running, len(user_ids))
        self._backlog.add_pages("sweep", pages(user_ids))
        self._tasks.refresh_page()

    def finish(self) -> None:
        """Call the running rebuild done if nothing of it is left, and start the one that waits."""
        finished = self._rebuilds.finish(self._clock())
        if finished:
            logger.info("rebuild %s done", finished)
            queued = self._rebuilds.queued()
            if queued:
                self._tasks.rebuild(queued)


class BulkWork:
    """Does the pages that sweeps and rebuilds have queued, one a call; each call has the next one done."""

    def __init__(
        self,
        refresher: Refresher,
        backlog: Backlog,
        tasks: TaskQueue,
        rebuild: Rebuild,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._refresher, self._backlog, self._tasks, self._rebuild = refresher, backlog, tasks, rebuild
        self._clock = clock

    def next_page(self) -> bool:
        """Do one page; False without one.  Raises `StoreUnavailable` after having queued what could not be read."""
        for cause in ("rebuild", "sweep"):
            page = self._backlog.take_page(cause, self._clock())
            if page is not None:
                self._do(page, cause)
                return True
        return False

    def _do(self, page: Page, cause: str) -> None:
        try:
            found = self._refresher.refresh_page(page, cause)
        except BaseException:
            self._backlog.add_pages(cause, [page])
            raise
        if found:
            self._rebuild.found(found)
        self._rebuild.finish()
        if self._backlog.pages_left():
            self._tasks.refresh_page()


def covering(parts: Sequence[Page]) -> list[Page]:
    """The pages, each with a range of keys, so that together they cover every key there may be.

    A page's range holds all files that its users may have, and reaches to where the next one begins.
    """
    if not parts:
        return [Page([], "", None)]
    begins = ["", *(f"{part.user_ids[0]}." for part in parts[1:])]
    ends: list[str | None] = [
        max(span(part.user_ids)[1], begin) for part, begin in zip(parts, begins[1:], strict=False)
    ]
    ends.append(None)
    return [Page(part.user_ids, after, until) for part, after, until in zip(parts, begins, ends, strict=True)]
