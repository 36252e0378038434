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

from shared.formats.object_names import CATALOG_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.source_keys import parse_bundle_id
from shared.object_store import ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.progress.rebuilds import Rebuilds
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import Unpacks
from shared.redis_keys import VERIFIED_PREFIX, VERIFYING_PREFIX
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue
from worker.source.metrics import MinioMetrics, detect_losses
from worker.source.notifications import NotificationRules, RuleState
from worker.state.loss_signals import FIRST_START
from worker.state.parts import StateParts
from worker.state.schema_upgrade import upgrade_schema
from worker.state.scripts import CHUNK_SIZE
from worker.state.work_queues import Page
from worker.watchdog.silent_repairs import SilentRepairs

logger = logging.getLogger(__name__)

TICK_S = 15.0
OVERDUE_S = 30.0
"""A user that is dirty and unread for longer than this is overdue: its message may be lost."""
UNMONITORED_SWEEP_S = 300
"""Seconds between sweeps if MinIO's metrics cannot show whether it lost events."""
MAX_PAGE_MESSAGES = 2
BROKEN_READ_TICKS = 3
"""A read seen by this many ticks takes longer than 30 s: its worker is probably dead or hangs."""
DEAD_ATTEMPT_TICKS = 8
"""An isolated read seen by this many ticks (105 s) is over: `worker.reading.deadline` killed it at 90 s.

Ticks are counted instead of reading a clock, so clock skew cannot quarantine a file.
"""
STALLED_QUEUE_TICKS = 3
"""MinIO retries its on-disk queue every 3 s. It is stalled if it sends nothing for 3 ticks."""


class Watchdog:
    """Runs all periodic checks of the pipeline's state. `clock` returns Unix seconds.

    `notification_rules`: MinIO's rules to check and restore. None skips that check.
    """

    def __init__(
        self,
        backlog: StateParts,
        output: ObjectStore,
        tasks: TaskQueue,
        rebuilds: Rebuilds,
        metrics: MinioMetrics,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        notification_rules: NotificationRules | None = None,
    ) -> None:
        self._notifications = notification_rules
        self._backlog, self._output, self._tasks, self._rebuilds = backlog, output, tasks, rebuilds
        self._figures, self._settings, self._clock = metrics, settings, clock
        self._sweeps, self._attempts = SweepRecord(backlog.client), backlog.attempts
        self._healed, self._unpacks = SilentRepairs(backlog.client), Unpacks(backlog.client)
        self._files_differed = self._had_trust_state = False
        self._ticks_seen: dict[str, int] = {}
        self._queue_before, self._queue_ticks, self.is_queue_stalled = (0, 0), 0, False

    def run_forever(self) -> None:
        """Tick every 15 s until the process ends; upgrade the keys and request a sweep first.

        Events may have been lost before the start. An unexpected exception ends the process.
        """
        try:
            self._tick_forever()
        except BaseException:
            # A thread that dies alone would go unnoticed: the listener keeps its heartbeat fresh.
            logger.exception("the watchdog failed; exiting, so that the process is restarted")
            os._exit(1)

    def _tick_forever(self) -> None:
        is_started = False
        while True:
            try:
                if not is_started:
                    self.start()
                self.tick()
                is_started = True
            except (RedisError, OperationalError, StoreUnavailable) as error:
                logger.warning("the watchdog's tick failed; the next tick retries: %s", error)
            time.sleep(TICK_S)

    def start(self) -> None:
        """Upgrade the keys in Redis if an earlier release has left its own, and request a sweep."""
        upgrade_schema(self._backlog.client)
        self._sweeps.request(self._tasks, "start")

    def tick(self) -> None:
        """Run all checks once.

        Raises `RedisError`, `OperationalError` or `StoreUnavailable` in an outage. The next tick
        then starts from the first check.
        """
        now = self._clock()
        self._backlog.status.start_counting(now)
        self.isolate_broken_reads()
        self.enqueue_isolated()
        self.enqueue_overdue(now)
        self.push_bulk(now)
        # A publisher that died may have taken the wake-up.
        if self._backlog.publish_queue.count_pending():
            self._backlog.publish_queue.wake_publisher()
        self.look_for_evidence()
        self.look_after_notifications()
        self.sweep_if_due(now)
        self._healed.count(self._sweeps.get_field("cause") or "")

    # -- poison files ------------------------------------------------------------------------------
    def isolate_broken_reads(self) -> None:
        """Isolate the users of reads that did not end, and end attempts that cannot be running."""
        isolated = self._attempts.isolated_users()
        attempts_under_way = {
            isolated_user.attempt_id: user_id for user_id, isolated_user in isolated.items() if isolated_user.attempt_id
        }
        read_ids = self._attempts.active_reads()
        self._ticks_seen = {token: self._ticks_seen.get(token, 0) + 1 for token in (*read_ids, *attempts_under_way)}
        for attempt_id, user_id in attempts_under_way.items():
            if self._ticks_seen[attempt_id] >= DEAD_ATTEMPT_TICKS:
                logger.warning(
                    "isolated read of %s did not end, attempt %d: its worker was killed or hung",
                    user_id,
                    isolated[user_id].attempt_count,
                )
                self._attempts.expire_attempt(user_id, attempt_id)
        broken_reads = [read_id for read_id in read_ids if self._ticks_seen[read_id] >= BROKEN_READ_TICKS]
        for read_id, user_ids in self._attempts.users_of_reads(broken_reads).items():
            newly_isolated = self._attempts.isolate(read_id, user_ids)
            if newly_isolated:
                logger.warning(
                    "a read of %s and %d more did not end; its worker died or hangs; isolating these users",
                    newly_isolated[0],
                    len(newly_isolated) - 1,
                )
            # The worker may have left image copies that are stale by now, or that no row names.
            self._backlog.users.add_suspects(user_ids)

    def enqueue_isolated(self) -> None:
        """Enqueue one message per isolated user that is dirty."""
        isolated = self._attempts.isolated_users()
        idle_users = [user_id for user_id, isolated_user in isolated.items() if not isolated_user.attempt_id]
        unread = list(self._backlog.users.begin_read(idle_users))
        # Isolation ends for users that are clean or were read since, but not for quarantined ones.
        self._attempts.clear_users(
            user for user in idle_users if user not in unread and not isolated[user].is_exhausted
        )
        for queue, user_ids in self._split_by_queue(unread).items():
            # With an empty queue, the messages of the last tick were consumed or lost.
            if user_ids and not self.count_messages(queue):
                for user_id in user_ids[:CHUNK_SIZE]:
                    self._tasks.refresh_isolated(user_id, queue)

    def _split_by_queue(self, user_ids: list[str]) -> dict[str, list[str]]:
        event_users = self._backlog.users.marked_by_event(user_ids)
        return {
            EVENTS_QUEUE: [user_id for user_id in user_ids if user_id in event_users],
            BULK_QUEUE: [user_id for user_id in user_ids if user_id not in event_users],
        }

    # -- messages that may be lost -----------------------------------------------------------------
    def enqueue_overdue(self, now: float) -> None:
        """Re-enqueue users that are overdue while the queue of their messages is empty."""
        # With messages in the queue, these users may just be waiting for a busy worker.
        if not self.count_messages(EVENTS_QUEUE):
            overdue = self.exclude_unsafe(self._backlog.users.overdue_users("event", now - OVERDUE_S, CHUNK_SIZE))
            if overdue:
                logger.info("%s and %d more are overdue; enqueuing them again", overdue[0], len(overdue) - 1)
                self._backlog.status.increment("users_reenqueued", len(overdue))
                self._tasks.refresh(overdue)
        if not self.count_messages(BULK_QUEUE) and not self._backlog.work_queues.count_pages():
            for cause in ("sweep", "rebuild", "bundle"):
                overdue = self.exclude_unsafe(self._backlog.users.overdue_users(cause, now - OVERDUE_S, 2 * CHUNK_SIZE))
                if overdue:
                    self._backlog.status.increment("users_reenqueued", len(overdue))
                    self._backlog.work_queues.add_page(Page(user_ids=overdue))

        bundles = self._backlog.users.overdue_users("unpack", now - OVERDUE_S, CHUNK_SIZE)
        if bundles and not self.count_messages(BULK_QUEUE) and not self._unpacks.is_held():
            self._tasks.unpack(parse_bundle_id(bundles[0]) or "")

    def exclude_unsafe(self, user_ids: list[str]) -> list[str]:
        """Return the users that may be read in one batch.

        Excludes isolated users, and users of a read seen by two ticks: its worker may be dead.
        """
        if not user_ids:
            return []
        read_ids = [token for token, ticks in self._ticks_seen.items() if ticks > 1]
        unsafe = self._attempts.isolated_ids().union(*self._attempts.users_of_reads(read_ids).values())
        return [user_id for user_id in user_ids if user_id not in unsafe]

    def push_bulk(self, now: float) -> None:
        """Re-enqueue pages and rebuilds after a lost message, and close finished bulk work."""
        if self.count_messages(BULK_QUEUE):
            return
        for _ in range(min(MAX_PAGE_MESSAGES, self._backlog.work_queues.count_pages())):
            self._tasks.refresh_page()
        self._rebuilds.finish_if_done(now)
        self._unpacks.finish_published(now)
        running_id, queued_id = self._rebuilds.running_id(), self._rebuilds.queued_id()
        if running_id and not self._rebuilds.is_enqueued(running_id) and not self._rebuilds.is_enqueuing():
            self._tasks.rebuild(running_id)
        elif queued_id and not running_id:
            self._tasks.rebuild(queued_id)

    def count_messages(self, queue: str) -> int:
        """Return the number of messages in a Celery queue."""
        return self._backlog.work_queues.count_messages(queue)

    # -- loss signals ------------------------------------------------------------------------------
    def look_for_evidence(self) -> None:
        """Add a loss signal for each sign that events or writes were lost."""
        differs = self._files_differ()
        # Two ticks in a row, as each publish makes the files differ between PUT and COMMIT
        # PUBLISH.
        if differs and self._files_differed:
            self._backlog.loss_signals.add("files_changed")
        self._files_differed = differs
        metrics = self._figures.read()
        if metrics and self._queue_just_stalled():
            self._backlog.loss_signals.add("safe_queue_stalled")
        trust_state = self._backlog.loss_signals.trust_state()
        if trust_state is None:
            self._check_missing_trust_state()
        elif (
            trust_state.startswith(VERIFIED_PREFIX)
            and trust_state != f"{VERIFIED_PREFIX}{self._backlog.loss_signals.run_id()}"
        ):
            self._backlog.loss_signals.add("redis_restarted")
        # A running sweep has read the metrics before its LIST, and stores them with its COMMIT
        # SWEEP.
        if trust_state is None or trust_state.startswith(VERIFIED_PREFIX):
            self._check_metrics(metrics)
        self._had_trust_state = trust_state is not None

    def _check_missing_trust_state(self) -> None:
        # All other loss signals record their kind. A trust state that vanished without one means
        # that Redis was emptied.
        is_explained = (
            self._backlog.loss_signals.unresolved() or self._sweeps.is_running() or self._sweeps.is_requested()
        )
        if self._had_trust_state and not is_explained:
            self._backlog.loss_signals.add("redis_emptied")

    def _check_metrics(self, metrics: str | None) -> None:
        known = self._sweeps.get_field("metrics")
        for kind in detect_losses(known, metrics) if known and metrics else ():
            self._backlog.loss_signals.add(kind)

    def _files_differ(self) -> bool:
        if self._backlog.publish_queue.is_writer_active():
            return False  # the files of a running publish are recorded only by its COMMIT PUBLISH
        recorded = self._backlog.publish_queue.last_publish()
        try:
            return self._catalog_differs() or (
                self._output.get_etag(OUTPUT_KEY),
                self._output.get_etag(REJECTS_KEY),
            ) != (
                recorded.output_etag,
                recorded.rejects_etag,
            )
        except ObjectUnreadable as error:  # no publisher or unpacker wrote that
            logger.warning("a published object cannot be read; it counts as changed: %s", error)
            return True

    def _catalog_differs(self) -> bool:
        recorded = self._backlog.catalog_version.recorded_etag()
        return (
            bool(recorded) and not self._unpacks.is_held() and (self._output.get_etag(CATALOG_KEY) or "-") != recorded
        )

    def _queue_just_stalled(self) -> bool:
        """Update the stall state of MinIO's on-disk queue; return whether it has just stalled.

        It is stalled if it holds durable copies, does not shrink, and none arrives in Redis.
        """
        waiting, arrived = self._figures.stalled_copies, self._backlog.status.counter_value("safe_events")
        before, arrived_before = self._queue_before
        self._queue_before = waiting, arrived
        if not waiting or waiting < before or arrived != arrived_before:
            self._queue_ticks = 0
        self._queue_ticks += bool(waiting)
        is_stalled, was_stalled = self._queue_ticks >= STALLED_QUEUE_TICKS, self.is_queue_stalled
        self.is_queue_stalled = is_stalled
        if is_stalled or was_stalled:
            self._backlog.status.set_stalled_copies(waiting if is_stalled else 0)
        return is_stalled and not was_stalled

    def look_after_notifications(self) -> None:
        """Restore missing notification rules and add a loss signal.

        Rules go missing if an operator replaces them, or if the bucket is deleted and recreated.
        """
        if not self._notifications or not self._backlog.inbox.events_available():
            return
        try:
            if self._notifications.ensure_rules() is RuleState.RESTORED:
                # After the rules are added, else every tick repeats it where adding them fails. A
                # process that dies in between is restarted, which requests a sweep as well.
                self._backlog.loss_signals.add("rules_missing")
        except (MinioException, HTTPError) as error:  # no such bucket, or access denied
            logger.debug("cannot check the notification rules; the next tick retries: %s", error)

    def sweep_if_due(self, now: float) -> None:
        """Request a sweep on a loss signal, or if the last one is overdue.

        Celery beat requests the regular sweeps. One counts as overdue after two intervals, or after
        `UNMONITORED_SWEEP_S` if lost events would not be detected otherwise.
        """
        trust_state = self._backlog.loss_signals.trust_state()
        last_sweep_at = float(self._sweeps.get_field("at") or 0)
        max_interval_s: float = 2 * self._settings.sweep_interval_s
        if self.is_queue_stalled or not self._sweeps.get_field("metrics") or not self._backlog.inbox.events_available():
            max_interval_s = min(UNMONITORED_SWEEP_S, max_interval_s)
        if trust_state is None or trust_state.startswith(VERIFYING_PREFIX):
            if not self._sweeps.is_running():
                default_cause = "start" if trust_state is None else "the last sweep did not finish"
                kinds = self._backlog.loss_signals.unresolved() - {FIRST_START}
                self._sweeps.request(self._tasks, ", ".join(sorted(kinds)) or default_cause)
        elif now - last_sweep_at > max_interval_s:
            self._sweeps.request(self._tasks, "overdue")
