"""The list of checks that the watchdog runs."""

from typing import NamedTuple

from redis import Redis

from shared.object_store import ObjectStore
from shared.progress.job_records import JobRecords
from shared.task_queue import TaskQueue
from worker.source.metrics import MinioMetrics
from worker.source.notifications import NotificationRules
from worker.state.parts import StateParts
from worker.state.scripts import Scripts
from worker.watchdog.broken_reads import BrokenReads
from worker.watchdog.loss_detection import (
    NotificationRulesCheck,
    PublishedFilesCheck,
    ServerLossCheck,
)
from worker.watchdog.overdue import OverdueBundles, OverdueUsers
from worker.watchdog.silent_repairs import SilentRepairs
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
    notification_rules: NotificationRulesCheck | None
    sweep_schedule: SweepSchedule
    silent_repairs: SilentRepairs

    def list_all(self) -> list[Check]:
        """Return the checks as a list for `Watchdog`."""
        return [check for check in self if check is not None]


def build_checks(
    client: "Redis",
    state: StateParts,
    records: JobRecords,
    output: ObjectStore,
    tasks: TaskQueue,
    metrics: MinioMetrics,
    sweep_interval_s: float,
    notification_rules: NotificationRules | None = None,
) -> WatchdogChecks:
    """Return the checks. `notification_rules`: the rules to check and restore; None skips that."""
    broken_reads = BrokenReads(state.attempts, state.users, tasks, state.work_queues)
    server_loss = ServerLossCheck(metrics, state.loss_signals, records.sweeps, state.status)

    def is_unmonitored() -> bool:
        return (
            server_loss.is_queue_stalled
            or not records.sweeps.get_field("metrics")
            or not state.inbox.events_available()
        )

    return WatchdogChecks(
        counting_start=CountingStart(state.status),
        broken_reads=broken_reads,
        overdue_users=OverdueUsers(
            state.users, state.work_queues, tasks, broken_reads, state.status
        ),
        overdue_bundles=OverdueBundles(state.users, state.work_queues, tasks, records.unpack_lease),
        stalled_jobs=StalledJobs(state.work_queues, tasks, records.rebuilds, records.unpacks),
        pending_results=PendingResults(state.publish_queue),
        published_files=PublishedFilesCheck(
            output,
            state.publish_queue,
            state.catalog_version,
            records.unpack_lease,
            state.loss_signals,
        ),
        server_loss=server_loss,
        notification_rules=(
            NotificationRulesCheck(notification_rules, state.inbox, state.loss_signals)
            if notification_rules
            else None
        ),
        sweep_schedule=SweepSchedule(
            state.loss_signals, records.sweeps, tasks, sweep_interval_s, is_unmonitored
        ),
        silent_repairs=SilentRepairs(client, Scripts(client), records.sweeps),
    )
