"""The watchdog: every 15 s it re-enqueues overdue users and turns loss signals into a sweep.

It also isolates users if their read may have killed a worker. It runs as a thread of the listener's
process. Several watchdogs may run concurrently.
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
"""A user that is dirty and unread for longer than this is overdue: its message may be lost."""
BLIND_SWEEP_S = 300
"""Seconds between sweeps if MinIO's metrics cannot show whether it lost events."""
PAGES_AHEAD = 2
LOOKS_BROKEN_OFF = 3
"""A read seen by this many ticks takes longer than 30 s: its worker is probably dead or hangs."""
LOOKS_OVER = 8
"""An isolated read seen by this many ticks (105 s) is over: `worker.deadline` killed it at 90 s.

Ticks are counted instead of reading a clock, so clock skew cannot quarantine a file.
"""
LOOKS_STALLED = 3
"""MinIO retries its on-disk queue every 3 s. It is stalled if it sends nothing for 3 ticks."""


class Watch:
    """Runs all periodic checks of the pipeline's state. `clock` returns Unix seconds.

    `notifications`: MinIO's rules to check and restore. None skips that check.
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
        """Tick every 15 s until the process ends; request a sweep first.

        Events may have been lost before the start. An unexpected exception ends the process.
        """
        try:
            self._repeat()
        except BaseException:
            # A thread that dies alone would go unnoticed: the listener keeps its heartbeat fresh.
            logger.exception("the watchdog failed; exiting, so that the process is restarted")
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
                logger.warning("the watchdog's tick failed; the next tick retries: %s", error)
            time.sleep(EVERY_S)

    def tick(self) -> None:
        """Run all checks once.

        Raises `RedisError`, `OperationalError` or `StoreUnavailable` in an outage. The next tick
        then starts from the first check.
        """
        now = self._clock()
        self._backlog.begin_counting(now)
        self.look_for_broken_readings()
        self.enqueue_alone()
        self.enqueue_overdue(now)
        self.push_bulk(now)
        # A publisher that died may have taken the wake-up.
        if self._backlog.staged_count():
            self._backlog.wake_publisher()
        self.look_for_evidence()
        self.look_after_notifications()
        self.sweep_if_due(now)
        self._healed.count(self._sweeps.get("last_cause") or "")

    # -- poison files ------------------------------------------------------------------------------
    def look_for_broken_readings(self) -> None:
        """Isolate the users of reads that did not end, and end attempts that cannot be running."""
        trials = self._trials.all()
        under_way = {trial.attempt: user_id for user_id, trial in trials.items() if trial.attempt}
        readings = self._trials.readings()
        self._seen = {token: self._seen.get(token, 0) + 1 for token in (*readings, *under_way)}
        for attempt, user_id in under_way.items():
            if self._seen[attempt] >= LOOKS_OVER:
                logger.warning(
                    "isolated read of %s did not end, attempt %d: its worker was killed or hung",
                    user_id,
                    trials[user_id].attempts,
                )
                self._trials.over(user_id, attempt)
        broken_off = [reading for reading in readings if self._seen[reading] >= LOOKS_BROKEN_OFF]
        for reading, user_ids in self._trials.being_read(broken_off).items():
            apart = self._trials.set_apart(reading, user_ids)
            if apart:
                logger.warning(
                    "a read of %s and %d more did not end; its worker died or hangs; isolating these users",
                    apart[0],
                    len(apart) - 1,
                )
            # The worker may have left image copies that are stale by now, or that no row names.
            self._backlog.doubt(user_ids)

    def enqueue_alone(self) -> None:
        """Enqueue one message per isolated user that is dirty."""
        trials = self._trials.all()
        waiting = [user_id for user_id, trial in trials.items() if not trial.attempt]
        unread = list(self._backlog.note(waiting))
        # Isolation ends for users that are clean or were read since, but not for quarantined ones.
        self._trials.acquit(user for user in waiting if user not in unread and not trials[user].is_guilty)
        for queue, user_ids in self._by_queue(unread).items():
            # With an empty queue, the messages of the last tick were consumed or lost.
            if user_ids and not self._queue_length(queue):
                for user_id in user_ids[:CHUNK]:
                    self._tasks.refresh_alone(user_id, queue)

    def _by_queue(self, user_ids: list[str]) -> dict[str, list[str]]:
        live = self._backlog.told_by_events(user_ids)
        return {
            EVENTS_QUEUE: [user_id for user_id in user_ids if user_id in live],
            BULK_QUEUE: [user_id for user_id in user_ids if user_id not in live],
        }

    # -- messages that may be lost -----------------------------------------------------------------
    def enqueue_overdue(self, now: float) -> None:
        """Re-enqueue users that are overdue while the queue of their messages is empty."""
        # With messages in the queue, these users may just be waiting for a busy worker.
        if not self._queue_length(EVENTS_QUEUE):
            overdue = self._together(self._backlog.overdue("event", now - OVERDUE_S, CHUNK))
            if overdue:
                logger.info("%s and %d more are overdue; enqueuing them again", overdue[0], len(overdue) - 1)
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
        """Return the users that may be read in one batch.

        Excludes isolated users, and users of a read seen by two ticks: its worker may be dead.
        """
        if not overdue:
            return []
        twice = [token for token, looks in self._seen.items() if looks > 1]
        apart = self._trials.users().union(*self._trials.being_read(twice).values())
        return [user_id for user_id in overdue if user_id not in apart]

    def push_bulk(self, now: float) -> None:
        """Re-enqueue pages and rebuilds after a lost message, and close finished bulk work."""
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

    # -- loss signals ------------------------------------------------------------------------------
    def look_for_evidence(self) -> None:
        """Add a loss signal for each sign that events or writes were lost."""
        differs = self._published_differs()
        # Two ticks in a row, as each publish makes the files differ between PUT and CLEAN.
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
        # A running sweep has read the metrics before its LIST, and stores them with its COMMIT.
        if epoch is None or epoch.startswith("ok:"):
            self._look_at_figures(figures)
        self._had_epoch = epoch is not None

    def _look_at_missing_epoch(self) -> None:
        # All other loss signals record their kind. A trust state that vanished without one means
        # that Redis was emptied.
        expected = self._backlog.evidence() or self._sweeps.alive() or self._sweeps.waits()
        if self._had_epoch and not expected:
            self._backlog.add_evidence("redis_emptied")

    def _look_at_figures(self, figures: str | None) -> None:
        known = self._sweeps.get("figures")
        for kind in evidence(known, figures) if known and figures else ():
            self._backlog.add_evidence(kind)

    def _published_differs(self) -> bool:
        if self._backlog.writer_active():
            return False  # the files of a running publish are recorded only by its CLEAN
        recorded = self._backlog.published()
        try:
            return self._shelf_differs() or (self._output.etag(OUTPUT), self._output.etag(REJECTS)) != (
                recorded.etag,
                recorded.rej_etag,
            )
        except ObjectUnreadable as error:  # no publisher or unpacker wrote that
            logger.warning("a published object cannot be read; it counts as changed: %s", error)
            return True

    def _shelf_differs(self) -> bool:
        recorded = self._backlog.shelf_etag()
        return bool(recorded) and not self._unpacks.alive() and (self._output.etag(BUNDLES) or "-") != recorded

    def _queue_gets_stuck(self) -> bool:
        """Update the stall state of MinIO's on-disk queue; return whether it has just stalled.

        It is stalled if it holds durable copies, does not shrink, and none arrives in Redis.
        """
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
        """Restore missing notification rules and add a loss signal.

        Rules go missing if an operator replaces them, or if the bucket is deleted and recreated.
        """
        if not self._notifications or not self._backlog.notifications_come():
            return
        try:
            if self._notifications.mend() is Rules.MISSING:
                # After the rules are added, else every tick repeats it where adding them fails. A
                # process that dies in between is restarted, which requests a sweep as well.
                self._backlog.add_evidence("rules_missing")
        except (MinioException, HTTPError) as error:  # no such bucket, or access denied
            logger.debug("cannot check the notification rules; the next tick retries: %s", error)

    def sweep_if_due(self, now: float) -> None:
        """Request a sweep on a loss signal, or if the last one is overdue.

        Celery beat requests the regular sweeps. One counts as overdue after two intervals, or after
        `BLIND_SWEEP_S` if lost events would not be detected otherwise.
        """
        epoch = self._backlog.epoch()
        last = float(self._sweeps.get("last_at") or 0)
        longest: float = 2 * self._settings.sweep_interval_s
        if self._queue_stalls or not self._sweeps.get("figures") or not self._backlog.notifications_come():
            longest = min(BLIND_SWEEP_S, longest)
        if epoch is None or epoch.startswith("s:"):
            if not self._sweeps.alive():
                unnamed = "start" if epoch is None else "the last sweep did not finish"
                kinds = self._backlog.evidence() - {NOTHING_KNOWN}
                self._sweeps.request(self._tasks, ", ".join(sorted(kinds)) or unnamed)
        elif now - last > longest:
            self._sweeps.request(self._tasks, "overdue")
