"""The list of checks that the watchdog runs."""

from typing import NamedTuple

from worker.watchdog.broken_reads import BrokenReads
from worker.watchdog.loss_detection import (
    EventsOfRelease03,
    NotificationRulesCheck,
    PublishedFilesCheck,
    ServerLossCheck,
)
from worker.watchdog.overdue import OverdueBundles, OverdueUsers
from worker.watchdog.stalled_jobs import PendingResults, StalledJobs
from worker.watchdog.sweep_schedule import SweepSchedule
from worker.watchdog.watchdog import Check, CountingStart


class WatchdogChecks(NamedTuple):
    """The checks, in their order in a tick. Without notification rules, their check is None."""

    counting_start: CountingStart
    broken_reads: BrokenReads
    overdue_users: OverdueUsers
    overdue_bundles: OverdueBundles
    stalled_jobs: StalledJobs
    pending_results: PendingResults
    published_files: PublishedFilesCheck
    server_loss: ServerLossCheck
    events_of_0_3: EventsOfRelease03
    notification_rules: NotificationRulesCheck | None
    sweep_schedule: SweepSchedule

    def list_all(self) -> list[Check]:
        """Return the checks as a list for `Watchdog`."""
        return [check for check in self if check is not None]
