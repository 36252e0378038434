"""The watch: every 15 seconds, what is dirty too long is enqueued again, and evidence of loss leads to a sweep.

It runs as a thread of the listener's process; two of them do no harm.
"""

import logging
import os
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.object_store import ObjectStore, StoreUnavailable
from shared.published import OUTPUT, REJECTS
from shared.rebuilds import Rebuilds
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue
from worker.backlog import CHUNK, Backlog, Page
from worker.server_figures import ServerFigures
from worker.sweep_record import SweepRecord

logger = logging.getLogger(__name__)

EVERY_S = 15.0
OVERDUE_S = 30.0
BLIND_SWEEP_S = 300
"""Seconds between sweeps where MinIO does not tell whether it lost events."""
PAGES_AHEAD = 2


class Watch:
    """Looks after the state protocol.  `clock` gives Unix seconds."""

    def __init__(
        self,
        backlog: Backlog,
        output: ObjectStore,
        tasks: TaskQueue,
        rebuilds: Rebuilds,
        figures: ServerFigures,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backlog, self._output, self._tasks, self._rebuilds = backlog, output, tasks, rebuilds
        self._figures, self._settings, self._clock = figures, settings, clock
        self._sweeps = SweepRecord(backlog.redis)
        self._differed = False

    def run_forever(self) -> None:
        """Look every 15 seconds, the first time with a sweep, as nobody knows what happened before the start."""
        try:
            self._repeat()
        except BaseException:
            logger.exception("the watch died; ending the process, so that it is started anew")
            os._exit(1)

    def _repeat(self) -> None:
        cause: str | None = "start"
        while True:
            try:
                if cause:
                    self._sweeps.request(self._tasks, cause)
                self.tick()
                cause = None
            except (RedisError, OperationalError, StoreUnavailable) as error:
                logger.warning("the watch waits: %s", error)
            time.sleep(EVERY_S)

    def tick(self) -> None:
        """One look at everything.  Raises what an outage raises; the next look begins anew."""
        now = self._clock()
        self.enqueue_overdue(now)
        self.push_bulk(now)
        if self._backlog.staged_count():
            self._backlog.wake_publisher()
        self.look_for_evidence()
        self.sweep_if_due(now)

    # -- messages that may be lost -----------------------------------------------------------------------------------
    def enqueue_overdue(self, now: float) -> None:
        """Refresh whoever is dirty too long although nothing waits in front of them."""
        if not self._queue_length(EVENTS_QUEUE):
            overdue = self._backlog.overdue("event", now - OVERDUE_S, CHUNK)
            if overdue:
                logger.info("%s and %d more enqueued again", overdue[0], len(overdue) - 1)
                self._backlog.count("enqueued_again", len(overdue))
                self._tasks.refresh(overdue)
        if not self._queue_length(BULK_QUEUE) and not self._backlog.pages_left():
            for cause in ("sweep", "rebuild"):
                overdue = self._backlog.overdue(cause, now - OVERDUE_S, 2 * CHUNK)
                if overdue:
                    self._backlog.count("enqueued_again", len(overdue))
                    self._backlog.add_page(Page(user_ids=overdue))

    def push_bulk(self, now: float) -> None:
        """Get bulk work going again whose message was lost."""
        if self._queue_length(BULK_QUEUE):
            return
        for _ in range(min(PAGES_AHEAD, self._backlog.pages_left())):
            self._tasks.refresh_page()
        self._rebuilds.finish(now)
        running, queued = self._rebuilds.running(), self._rebuilds.queued()
        if running and not self._rebuilds.named(running) and not self._rebuilds.naming():
            self._tasks.rebuild(running)
        elif queued and not running:
            self._tasks.rebuild(queued)

    def _queue_length(self, queue: str) -> int:
        return int(self._backlog.redis.llen(queue))

    # -- evidence ----------------------------------------------------------------------------------------------------
    def look_for_evidence(self) -> None:
        """Note as evidence whatever may mean that events or writes were lost."""
        differs = self._published_differs()
        if differs and self._differed:
            self._backlog.add_evidence("output.csv or rejects.csv is not what was last published")
        self._differed = differs
        epoch = self._backlog.epoch()
        if epoch is None or not epoch.startswith("ok:"):
            return
        if epoch != f"ok:{self._backlog.run_id()}":
            self._backlog.add_evidence("Redis was started anew")
        elif self._figures_differ():
            self._backlog.add_evidence("MinIO was started anew, or failed to send events")

    def _published_differs(self) -> bool:
        if self._backlog.writer_active():
            return False
        recorded = self._backlog.published()
        return (self._output.etag(OUTPUT), self._output.etag(REJECTS)) != (recorded.etag, recorded.rej_etag)

    def _figures_differ(self) -> bool:
        known, figures = self._sweeps.get("figures"), self._figures.read()
        return bool(known and figures and known != figures)

    def sweep_if_due(self, now: float) -> None:
        """Have a sweep begun if something may be lost, or the last one is too long ago and beat does not see to it."""
        epoch = self._backlog.epoch()
        last = float(self._sweeps.get("last_at") or 0)
        blind = not self._sweeps.get("figures") or not self._backlog.notifications_come()
        longest = (
            min(BLIND_SWEEP_S, 2 * self._settings.sweep_interval_s) if blind else 2 * self._settings.sweep_interval_s
        )
        if epoch is None or (epoch.startswith("s:") and not self._sweeps.alive()):
            self._sweeps.request(self._tasks, self._sweeps.evidence() or "Redis was emptied")
        elif now - last > longest:
            self._sweeps.request(self._tasks, "overdue")
