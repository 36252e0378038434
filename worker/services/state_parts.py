"""The parts of the state in Redis, on one client."""

from typing import NamedTuple

from redis import Redis

from shared.progress.pipeline_status import OperatorStatus
from shared.scripts import Scripts
from worker.bundles.catalog import CatalogVersion
from worker.state.event_inbox import EventInbox
from worker.state.loss_signals import LossSignals
from worker.state.publish_queue import PublishQueue
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates
from worker.state.work_queues import WorkQueues


class StateParts(NamedTuple):
    """The parts of the state."""

    users: UserStates
    inbox: EventInbox
    publish_queue: PublishQueue
    work_queues: WorkQueues
    loss_signals: LossSignals
    status: OperatorStatus
    attempts: ReadAttempts
    catalog_version: CatalogVersion


def build_state(client: "Redis", scripts: Scripts | None = None) -> StateParts:
    """Return the parts of the state on this client, which must not decode replies."""
    scripts = scripts or Scripts(client)
    loss_signals = LossSignals(client, scripts)
    return StateParts(
        users=UserStates(client, scripts),
        inbox=EventInbox(client, scripts),
        publish_queue=PublishQueue(client, scripts, loss_signals),
        work_queues=WorkQueues(client),
        loss_signals=loss_signals,
        status=OperatorStatus(client),
        attempts=ReadAttempts(client, scripts),
        catalog_version=CatalogVersion(client),
    )
