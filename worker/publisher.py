"""The publisher process: `python -m worker.publisher`.

Publishes as soon as a result is pending. A single drop is published immediately. Results that
arrive during a write are published together in the next one. Under steady load, publishing is
throttled to a share of the time, and to a smaller share for bulk work, so that the other processes
get the machine.
"""

import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from shared.arrow import avoid_pandas
from shared.duty_cycle import DutyCycle
from shared.object_store import StoreUnavailable
from shared.redis_keys import WAKE_BULK, WAKE_LIVE
from worker.heartbeat import Heartbeat
from worker.publishing.object_recovery import RECOVERY_CHECK_EVERY_S, ObjectRecovery
from worker.publishing.publisher import Publisher
from worker.services.builders import build_publisher
from worker.services.clients import ServerClients
from worker.services.container import Services, freeze_gc
from worker.state.publish_queue import PublishQueue

logger = logging.getLogger(__name__)

LIVE_FRACTION = 0.35
BULK_FRACTION = 0.2
BURST_S = 0.1
MAX_PUBLISH_WAIT_S = 2.0
"""The throttle, see `shared.duty_cycle.DutyCycle`.

Shares of the time, seconds at full speed, and the maximum wait in seconds.
"""
WAKEUP_TIMEOUT_S = 5.0
"""Seconds to wait for a wake-up; then the pending results are counted, as it may be lost."""
MANIFEST_TIMEOUT_S = 1.0
"""Seconds without a wake-up after which a manifest with unwritten facts is written."""


class PublisherLoop:
    """Waits for pending results and publishes them, at most once in `min_interval_s` seconds.

    `after_publish` is called after each call of `Publisher.publish` that raises no error.
    """

    def __init__(
        self,
        publisher: Publisher,
        recovery: ObjectRecovery,
        publish_queue: PublishQueue,
        after_publish: Callable[[], None],
        min_interval_s: float = 0.0,
    ) -> None:
        self._publisher = publisher
        self._recovery = recovery
        self._publish_queue = publish_queue
        self._after_publish = after_publish
        self._min_interval_s = min_interval_s
        self._started_at = float("-inf")
        self._live_cycle = DutyCycle(LIVE_FRACTION, BURST_S, time.monotonic, MAX_PUBLISH_WAIT_S)
        self._bulk_cycle = DutyCycle(BULK_FRACTION, BURST_S, time.monotonic, MAX_PUBLISH_WAIT_S)
        self._checked_at = time.monotonic()

    def run_forever(self, heartbeat: Heartbeat) -> None:
        """Publish until the process is stopped.

        While MinIO or Redis is unavailable, the loop retries every second; nothing is lost.
        """
        pending_count: int | None = None
        while True:
            try:
                self._check_files_if_due()
                # At the start and after an outage: what an interrupted publish has left pending.
                pending_count = self.run_once(
                    self._publish_queue.count_pending() if pending_count is None else pending_count
                )
                heartbeat.beat()
            except (RedisError, StoreUnavailable) as error:
                logger.warning("publishing is interrupted and retried in 1 s: %s", error)
                time.sleep(1.0)
                pending_count = None

    def _check_files_if_due(self) -> None:
        if time.monotonic() - self._checked_at >= RECOVERY_CHECK_EVERY_S:
            self._checked_at = time.monotonic()
            self._recovery.recover_objects()

    def run_once(self, pending_count: int) -> int:
        """Wait for pending results and for the throttle, then publish.

        `pending_count` is the return value of the call before: unless it is 0, there is no wait for
        results. Returns how many results are pending now, or -1 if another publisher holds the
        writer lease.
        """
        if not pending_count and not self._wait_for_work():
            return self._publish_queue.count_pending()  # usually 0, unless a wake-up was lost
        if pending_count > 0 and (bulk_wait_s := self._bulk_cycle.compute_wait_s()):
            # What a batch leaves is bulk work, unless a result of an event wakes the publisher.
            self._publish_queue.wait_for_wakeup([WAKE_LIVE], bulk_wait_s)
        if pending_count < 0:
            # Another publisher holds the lease: poll, as the end of a lease sends no wake-up.
            time.sleep(0.2)
        time.sleep(
            max(
                self._live_cycle.compute_wait_s(),
                self._started_at + self._min_interval_s - time.monotonic(),
            )
        )
        self._started_at = time.monotonic()
        pending_count = self._publisher.publish()
        duration_s = time.monotonic() - self._started_at
        # Publishing results of events delays bulk work, so both budgets are charged.
        self._live_cycle.charge(duration_s)
        self._bulk_cycle.charge(duration_s)
        self._after_publish()
        if self._publisher.is_manifest_due(idle=False):
            self._publisher.write_manifest()
        return pending_count

    def _wait_for_work(self) -> bool:
        # While bulk work is throttled, only results of events wake the publisher.
        bulk_wait_s = self._bulk_cycle.compute_wait_s()
        if bulk_wait_s and self._publish_queue.wait_for_wakeup([WAKE_LIVE], bulk_wait_s):
            return True
        if self._publisher.has_superseded_copies:
            return True
        timeout_s = (
            MANIFEST_TIMEOUT_S if self._publisher.is_manifest_due(idle=True) else WAKEUP_TIMEOUT_S
        )
        if self._publish_queue.wait_for_wakeup([WAKE_LIVE, WAKE_BULK], timeout_s):
            return True
        if self._publisher.is_manifest_due(idle=True):
            self._publisher.write_manifest()
        return False


def main() -> None:
    """Run the publisher with the settings from the environment."""
    avoid_pandas()
    services = Services(ServerClients.from_environment())
    publisher, recovery = build_publisher(
        services.clients.output,
        services.state,
        services.records.unpack_lease,
        services.clients.settings.source_bucket,
        time.time,
    )
    freeze_gc()

    def finish_jobs() -> None:
        finished_id = services.records.rebuilds.finish_if_done(time.time())
        if finished_id:
            services.rebuild.enqueue_next(finished_id)  # imports Celery
        services.records.unpacks.finish_published(time.time())

    interval_s = services.clients.settings.publish_min_interval_s
    loop = PublisherLoop(publisher, recovery, services.state.publish_queue, finish_jobs, interval_s)
    loop.run_forever(Heartbeat(services.clients.settings.progress_file))


if __name__ == "__main__":
    main()
