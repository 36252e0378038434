"""Signs that events or writes were lost. Each is added as a loss signal, which leads to a sweep."""

import logging

from minio.error import MinioException
from urllib3.exceptions import HTTPError

from shared.formats.object_names import CATALOG_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.object_store import ObjectStore, ObjectUnreadable
from shared.progress.leases import Lease
from shared.progress.sweep_record import SweepRecord
from worker.bundles.catalog import CatalogVersion
from worker.source.metrics import MinioMetrics, detect_losses
from worker.source.notifications import NotificationRules, RuleState
from worker.state.event_inbox import EventInbox
from worker.state.loss_signals import LossSignals
from worker.state.publish_queue import PublishQueue

logger = logging.getLogger(__name__)


class PublishedFilesCheck:
    """Compares the published files and the bundle catalog with what was last written."""

    def __init__(
        self,
        output: ObjectStore,
        publish_queue: PublishQueue,
        catalog_version: CatalogVersion,
        unpack_lease: Lease,
        loss_signals: LossSignals,
    ) -> None:
        self._output = output
        self._publish_queue = publish_queue
        self._catalog_version = catalog_version
        self._unpack_lease = unpack_lease
        self._loss_signals = loss_signals
        self._files_differed = False

    def tick(self, now: float) -> None:
        """Add a loss signal if the files differ at two ticks in a row."""
        differs = self._files_differ()
        # Two ticks in a row, as each publish makes the files differ between PUT and COMMIT
        # PUBLISH.
        if differs and self._files_differed:
            self._loss_signals.add("files_changed")
        self._files_differed = differs

    def _files_differ(self) -> bool:
        if self._publish_queue.is_writer_active():
            return False  # the files of a running publish are recorded only by its COMMIT PUBLISH
        recorded = self._publish_queue.last_publish()
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
        recorded = self._catalog_version.recorded_etag()
        return (
            bool(recorded)
            and not self._unpack_lease.is_held()
            and (self._output.get_etag(CATALOG_KEY) or "-") != recorded
        )


class ServerLossCheck:
    """Detects losses of Redis and MinIO by the trust state, the run ID and MinIO's metrics."""

    def __init__(
        self, metrics: MinioMetrics, loss_signals: LossSignals, sweeps: SweepRecord
    ) -> None:
        self._metrics = metrics
        self._loss_signals = loss_signals
        self._sweeps = sweeps
        self._had_trust_state = False

    def tick(self, now: float) -> None:
        """Add a loss signal for each sign that a server lost events or writes."""
        metrics = self._metrics.read()
        trust_state = self._loss_signals.trust_state()
        if trust_state is None:
            self._check_missing_trust_state()
        elif trust_state.is_verified and trust_state.run_id != self._loss_signals.run_id():
            self._loss_signals.add("redis_restarted")
        # A running sweep has read the metrics before its LIST, and stores them with its COMMIT
        # SWEEP.
        if trust_state is None or trust_state.is_verified:
            self._check_metrics(metrics)
        self._had_trust_state = trust_state is not None

    def _check_missing_trust_state(self) -> None:
        # All other loss signals record their kind. A trust state that vanished without one means
        # that Redis was emptied.
        is_explained = (
            self._loss_signals.unresolved()
            or self._sweeps.is_running()
            or self._sweeps.is_requested()
        )
        if self._had_trust_state and not is_explained:
            self._loss_signals.add("redis_emptied")

    def _check_metrics(self, metrics: str | None) -> None:
        known = self._sweeps.get_field("metrics")
        for kind in detect_losses(known, metrics) if known and metrics else ():
            self._loss_signals.add(kind)


class EventsOfRelease03:
    """Moves events that a MinIO with the settings of release 0.3 sends to a second list."""

    def __init__(self, inbox: EventInbox) -> None:
        self._inbox = inbox

    def tick(self, now: float) -> None:
        """Move all waiting entries to the list that the listener reads."""
        while self._inbox.move_copies_of_0_3():
            pass


class NotificationRulesCheck:
    """Keeps MinIO's notification rules of the source bucket."""

    def __init__(
        self, notification_rules: NotificationRules, inbox: EventInbox, loss_signals: LossSignals
    ) -> None:
        self._notification_rules = notification_rules
        self._inbox = inbox
        self._loss_signals = loss_signals

    def tick(self, now: float) -> None:
        """Restore missing notification rules and add a loss signal.

        Rules go missing if an operator replaces them, or if the bucket is deleted and recreated. A
        rule for another target cannot be restored: from then on only sweeps detect changes.
        """
        if not self._inbox.events_available():
            return
        try:
            rule_state = self._notification_rules.ensure_rules()
            if rule_state is RuleState.UNSUPPORTED:
                self._inbox.set_events_available(available=False)
            if rule_state in {RuleState.RESTORED, RuleState.UNSUPPORTED}:
                # After the rules are added, else every tick repeats it where adding them fails. A
                # process that dies in between is restarted, which requests a sweep as well.
                self._loss_signals.add("rules_missing")
        except (MinioException, HTTPError) as error:  # no such bucket, or access denied
            logger.debug("cannot check the notification rules; the next tick retries: %s", error)
