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

from shared.object_store import StoreUnavailable
from shared.pace import Pace
from worker.backlog import WAKE_BULK, WAKE_LIVE, Backlog
from worker.progress import Progress
from worker.publish import Publisher
from worker.readable_files import EVERY_S
from worker.wiring import Wiring

logger = logging.getLogger(__name__)

LIVE_SHARE, BULK_SHARE, BURST_S, LONGEST_WAIT_S = 0.35, 0.2, 0.1, 2.0
"""The throttle, see `shared.pace.Pace`: shares of the time, seconds at full speed, maximum wait."""
IDLE_S = 5.0
"""Seconds to wait for a wake-up; then the pending results are counted, as it may be lost."""
MANIFEST_IDLE_S = 1.0
"""Seconds without a wake-up after which a manifest with unwritten facts is written."""


class PublisherLoop:
    """Waits for pending results and publishes them, at most once in `min_interval_s` seconds.

    `after_publish` is called after each call of `Publisher.publish` that raises no error.
    """

    def __init__(
        self, publisher: Publisher, backlog: Backlog, after_publish: Callable[[], None], min_interval_s: float = 0.0
    ) -> None:
        self._publisher, self._backlog, self._after_publish = publisher, backlog, after_publish
        self._min_interval_s, self._began = min_interval_s, float("-inf")
        self._live = Pace(LIVE_SHARE, BURST_S, time.monotonic, LONGEST_WAIT_S)
        self._bulk = Pace(BULK_SHARE, BURST_S, time.monotonic, LONGEST_WAIT_S)
        self._looked = time.monotonic()

    def run_forever(self, progress: Progress) -> None:
        """Publish until the process is stopped.

        While MinIO or Redis is unavailable, the loop retries every second; nothing is lost.
        """
        left: int | None = None
        while True:
            try:
                self._look_after_files()
                # At the start and after an outage: what an interrupted publish has left pending.
                left = self.run_once(self._backlog.staged_count() if left is None else left)
                progress.made()
            except (RedisError, StoreUnavailable) as error:
                logger.warning("publishing is interrupted and retried in 1 s: %s", error)
                time.sleep(1.0)
                left = None

    def _look_after_files(self) -> None:
        if time.monotonic() - self._looked >= EVERY_S:
            self._looked = time.monotonic()
            self._publisher.look_after_files()

    def run_once(self, left: int) -> int:
        """Wait for pending results and for the throttle, then publish.

        `left` is the return value of the call before: unless it is 0, there is no wait for results.
        Returns how many results are pending now, or -1 if another publisher holds the writer lease.
        """
        if not left and not self._wait():
            return self._backlog.staged_count()  # usually 0, unless a wake-up was lost
        if left < 0:
            # Another publisher holds the lease: poll, as the end of a lease sends no wake-up.
            time.sleep(0.2)
        time.sleep(max(self._live.wait_s(), self._began + self._min_interval_s - time.monotonic()))
        self._began = time.monotonic()
        left = self._publisher.publish()
        spent = time.monotonic() - self._began
        # Publishing results of events delays bulk work, so both budgets are charged.
        self._live.spent(spent)
        self._bulk.spent(spent)
        self._after_publish()
        if self._publisher.manifest_due(idle=False):
            self._publisher.write_manifest()
        return left

    def _wait(self) -> bool:
        # While bulk work is throttled, only results of events wake the publisher.
        turn = self._bulk.wait_s()
        if turn and self._backlog.wait_for_wake([WAKE_LIVE], turn):
            return True
        if self._publisher.has_dropped_copies:
            return True
        idle = MANIFEST_IDLE_S if self._publisher.manifest_due(idle=True) else IDLE_S
        if self._backlog.wait_for_wake([WAKE_LIVE, WAKE_BULK], idle):
            return True
        if self._publisher.manifest_due(idle=True):
            self._publisher.write_manifest()
        return False


def main() -> None:
    """Run the publisher with the settings from the environment."""
    wiring = Wiring.from_environment()
    publisher = Publisher(wiring.output, wiring.backlog, wiring.settings.source_bucket, time.time)
    wiring.settle()

    def after_publish() -> None:
        wiring.rebuild.finish()
        wiring.unpacks.finish(time.time())

    interval_s = wiring.settings.publish_min_interval_s
    loop = PublisherLoop(publisher, wiring.backlog, after_publish, interval_s)
    loop.run_forever(Progress(wiring.settings.progress_file))


if __name__ == "__main__":
    main()
