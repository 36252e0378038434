"""The watch: every 15 seconds, what is dirty too long is enqueued again, and evidence of loss leads to a sweep.

Whoever may have cost a worker is read alone from here on.  It runs as a thread of the listener's process; two of them
do no harm.
"""

import logging
import os
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError
from minio.error import MinioException
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.keys import bundle_key
from shared.object_store import ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.published import BUNDLES, OUTPUT, REJECTS
from shared.rebuilds import Rebuilds
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue
from shared.unpacks import Unpacks
from worker.backlog import CHUNK, NOTHING_KNOWN, Backlog, Page
from worker.healed import Healed
from worker.notifications import Notifications, Rules
from worker.server_figures import ServerFigures, evidence
from worker.sweep_record import SweepRecord
from worker.trials import Trials

logger = logging.getLogger(__name__)

EVERY_S = 15.0
OVERDUE_S = 30.0
BLIND_SWEEP_S = 300
"""Seconds between sweeps where MinIO does not tell whether it lost events."""
PAGES_AHEAD = 2
LOOKS_BROKEN_OFF = 3
"""A reading that is seen by so many looks takes longer than 30 s: as a rule its worker is dead, or hangs."""
LOOKS_OVER = 8
"""An attempt at one user that is seen by so many looks is over: `worker.deadline` has ended it."""
LOOKS_STALLED = 3
"""MinIO's queue on disk is looked into every 3 s; if nothing leaves it between so many looks, it does not get on."""


class Watch:
    """Looks after the state protocol.  `clock` gives Unix seconds.

    `notifications`: MinIO's rules to be looked after; None leaves them alone.
    """

    def __init__(
        self,
        backlog: Backlog,
        output: ObjectStore,
        tasks: TaskQueue,
        rebuilds: Rebuilds,
        figures: ServerFigures,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        notifications: Notifications | None = None,
    ) -> None:
        self._notifications = notifications
        self._backlog, self._output, self._tasks, self._rebuilds = backlog, output, tasks, rebuilds
        self._figures, self._settings, self._clock = figures, settings, clock
        self._sweeps, self._trials = SweepRecord(backlog.redis), Trials(backlog.redis)
        self._healed, self._unpacks = Healed(backlog.redis), Unpacks(backlog.redis)
        self._differed = self._had_epoch = False
        self._seen: dict[str, int] = {}
        self._queue, self._queue_looks, self._queue_stalls = (0, 0), 0, False

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
        self._backlog.begin_counting(now)
        self.look_for_broken_readings()
        self.enqueue_alone()
        self.enqueue_overdue(now)
        self.push_bulk(now)
        if self._backlog.staged_count():
            self._backlog.wake_publisher()
        self.look_for_evidence()
        self.look_after_notifications()
        self.sweep_if_due(now)
        self._healed.count(self._sweeps.get("last_cause") or "")

    # -- workers that may have died over a user ----------------------------------------------------------------------
    def look_for_broken_readings(self) -> None:
        """Set apart the users of readings that were broken off, and call attempts over that cannot be under way."""
        trials = self._trials.all()
        under_way = {trial.attempt: user_id for user_id, trial in trials.items() if trial.attempt}
        readings = self._trials.readings()
        self._seen = {token: self._seen.get(token, 0) + 1 for token in (*readings, *under_way)}
        for attempt, user_id in under_way.items():
            if self._seen[attempt] >= LOOKS_OVER:
                logger.warning("%s cost a worker, attempt %d", user_id, trials[user_id].attempts)
                self._trials.over(user_id, attempt)
        broken_off = [reading for reading in readings if self._seen[reading] >= LOOKS_BROKEN_OFF]
        for reading, user_ids in self._trials.being_read(broken_off).items():
            apart = self._trials.set_apart(reading, user_ids)
            if apart:
                logger.warning("%s and %d more may have cost a worker; read one by one", apart[0], len(apart) - 1)
            # It may have copied images that are older by now than what was published, or that nobody needs any more.
            self._backlog.doubt(user_ids)

    def enqueue_alone(self) -> None:
        """Refresh, each by a message of its own, whoever is dirty and to be read alone."""
        trials = self._trials.all()
        waiting = [user_id for user_id, trial in trials.items() if not trial.attempt]
        unread = list(self._backlog.note(waiting))
        self._trials.acquit(user for user in waiting if user not in unread and not trials[user].is_guilty)
        for queue, user_ids in self._by_queue(unread).items():
            if user_ids and not self._queue_length(queue):
                for user_id in user_ids[:CHUNK]:
                    self._tasks.refresh_alone(user_id, queue)

    def _by_queue(self, user_ids: list[str]) -> dict[str, list[str]]:
        live = self._backlog.told_by_events(user_ids)
        return {
            EVENTS_QUEUE: [user_id for user_id in user_ids if user_id in live],
            BULK_QUEUE: [user_id for user_id in user_ids if user_id not in live],
        }

    # -- messages that may be lost -----------------------------------------------------------------------------------
    def enqueue_overdue(self, now: float) -> None:
        """Refresh whoever is dirty too long although nothing waits in front of them."""
        if not self._queue_length(EVENTS_QUEUE):
            overdue = self._together(self._backlog.overdue("event", now - OVERDUE_S, CHUNK))
            if overdue:
                logger.info("%s and %d more enqueued again", overdue[0], len(overdue) - 1)
                self._backlog.count("enqueued_again", len(overdue))
                self._tasks.refresh(overdue)
        if not self._queue_length(BULK_QUEUE) and not self._backlog.pages_left():
            for cause in ("sweep", "rebuild", "bundle"):
                overdue = self._together(self._backlog.overdue(cause, now - OVERDUE_S, 2 * CHUNK))
                if overdue:
                    self._backlog.count("enqueued_again", len(overdue))
                    self._backlog.add_page(Page(user_ids=overdue))

        bundles = self._backlog.overdue("unpack", now - OVERDUE_S, CHUNK)
        if bundles and not self._queue_length(BULK_QUEUE) and not self._unpacks.alive():
            self._tasks.unpack(bundle_key(bundles[0]) or "")

    def _together(self, overdue: list[str]) -> list[str]:
        """Those who may be read together: neither set apart, nor among whom a reading may just have been broken off."""
        if not overdue:
            return []
        twice = [token for token, looks in self._seen.items() if looks > 1]
        apart = self._trials.users().union(*self._trials.being_read(twice).values())
        return [user_id for user_id in overdue if user_id not in apart]

    def push_bulk(self, now: float) -> None:
        """Get bulk work going again whose message was lost."""
        if self._queue_length(BULK_QUEUE):
            return
        for _ in range(min(PAGES_AHEAD, self._backlog.pages_left())):
            self._tasks.refresh_page()
        self._rebuilds.finish(now)
        self._unpacks.finish(now)
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
            self._backlog.add_evidence("files_changed")
        self._differed = differs
        figures = self._figures.read()
        if figures and self._queue_gets_stuck():
            self._backlog.add_evidence("safe_queue_stalled")
        epoch = self._backlog.epoch()
        if epoch is None:
            self._look_at_missing_epoch()
        elif epoch.startswith("ok:") and epoch != f"ok:{self._backlog.run_id()}":
            self._backlog.add_evidence("redis_restarted")
        if epoch is None or epoch.startswith("ok:"):  # a sweep that is under way has read them before
            self._look_at_figures(figures)
        self._had_epoch = epoch is not None

    def _look_at_missing_epoch(self) -> None:
        # All evidence but this one says what it is.
        expected = self._backlog.evidence() or self._sweeps.alive() or self._sweeps.waits()
        if self._had_epoch and not expected:
            self._backlog.add_evidence("redis_emptied")

    def _look_at_figures(self, figures: str | None) -> None:
        known = self._sweeps.get("figures")
        for kind in evidence(known, figures) if known and figures else ():
            self._backlog.add_evidence(kind)

    def _published_differs(self) -> bool:
        if self._backlog.writer_active():
            return False
        recorded = self._backlog.published()
        try:
            return self._shelf_differs() or (self._output.etag(OUTPUT), self._output.etag(REJECTS)) != (
                recorded.etag,
                recorded.rej_etag,
            )
        except ObjectUnreadable as error:  # no publisher or unpacker wrote that
            logger.warning("what is published cannot be read: %s", error)
            return True

    def _shelf_differs(self) -> bool:
        recorded = self._backlog.shelf_etag()
        return bool(recorded) and not self._unpacks.alive() and (self._output.etag(BUNDLES) or "-") != recorded

    def _queue_gets_stuck(self) -> bool:
        """Whether it is noticed now that safe copies wait on MinIO's disk and none of them comes."""
        waiting, come = self._figures.safe_queue, self._backlog.counted("safe_events")
        before, come_before = self._queue
        self._queue = waiting, come
        if not waiting or waiting < before or come != come_before:
            self._queue_looks = 0
        self._queue_looks += bool(waiting)
        stalls, stalled = self._queue_looks >= LOOKS_STALLED, self._queue_stalls
        self._queue_stalls = stalls
        if stalls or stalled:
            self._backlog.note_safe_queue(waiting if stalls else 0)
        return stalls and not stalled

    def look_after_notifications(self) -> None:
        """Have MinIO send its events again if its rules were taken away, or the bucket was removed and made anew."""
        if not self._notifications or not self._backlog.notifications_come():
            return
        try:
            if self._notifications.mend() is Rules.MISSING:
                # Not before: it would be told again and again where rules cannot be added.  A process that dies in
                # between is started anew, and that leads to a sweep, too.
                self._backlog.add_evidence("rules_missing")
        except (MinioException, HTTPError) as error:  # no such bucket, or not ours to ask
            logger.debug("the notification rules cannot be looked at: %s", error)

    def sweep_if_due(self, now: float) -> None:
        """Have a sweep begun if something may be lost, or the last one is too long ago and beat does not see to it."""
        epoch = self._backlog.epoch()
        last = float(self._sweeps.get("last_at") or 0)
        longest: float = 2 * self._settings.sweep_interval_s
        if self._queue_stalls or not self._sweeps.get("figures") or not self._backlog.notifications_come():
            longest = min(BLIND_SWEEP_S, longest)
        if epoch is None or epoch.startswith("s:"):
            if not self._sweeps.alive():
                unnamed = "start" if epoch is None else "the last one came to no end"
                kinds = self._backlog.evidence() - {NOTHING_KNOWN}
                self._sweeps.request(self._tasks, ", ".join(sorted(kinds)) or unnamed)
        elif now - last > longest:
            self._sweeps.request(self._tasks, "overdue")
