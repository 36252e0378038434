"""Build the checks of the watchdog from other parts.

Apart from the other builders, because only the listener's process needs the modules.
"""

from shared.object_store import ObjectStore
from shared.progress.job_records import JobRecords
from shared.task_queue import TaskQueue
from worker.services.state_parts import StateParts
from worker.source.metrics import MinioMetrics
from worker.source.notifications import NotificationRules
from worker.watchdog.broken_reads import BrokenReads
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.loss_detection import (
    EventsOfRelease03,
    NotificationRulesCheck,
    PublishedFilesCheck,
    ServerLossCheck,
)
from worker.watchdog.overdue import OverdueBundles, OverdueUsers
from worker.watchdog.stalled_jobs import PendingResults, StalledJobs
from worker.watchdog.sweep_schedule import SweepSchedule
from worker.watchdog.watchdog import CountingStart


def build_checks(
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

    def is_unmonitored() -> bool:
        return not records.sweeps.get_field("metrics") or not state.inbox.events_available()

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
        server_loss=ServerLossCheck(metrics, state.loss_signals, records.sweeps),
        events_of_0_3=EventsOfRelease03(state.inbox),
        notification_rules=(
            NotificationRulesCheck(notification_rules, state.inbox, state.loss_signals)
            if notification_rules
            else None
        ),
        sweep_schedule=SweepSchedule(
            state.loss_signals, records.sweeps, tasks, sweep_interval_s, is_unmonitored
        ),
    )
