"""The status of Rowdrop as metrics for Prometheus.

Names and units follow https://prometheus.io/docs/practices/naming/. A value that is not known has
no sample.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.snapshot.view import View

_GAUGES = {
    "rows": "Rows in output.csv.",
    "rejected": "Rejected files of users without a row.",
    "held": "Rejected files of users that keep the row of the last valid version.",
    "suspicious": "Rows that are probably wrong.",
    "ignored": "Objects in the source bucket that are neither a user's file nor a bundle.",
    "dead_letters": "Kept events that could not be decoded.",
    "events_waiting": "Events in Redis that are not processed yet.",
}
"""Fields of /health/ready that are numbers without a unit."""
_AGES = {
    "snapshot_age_s": ("snapshot_age_seconds", "Since this process last checked output.csv."),
    "redis_age_s": ("redis_age_seconds", "Since this process last had a response of Redis."),
}


class _StatusCollector(Collector):
    def __init__(self, view: View, readiness: Mapping[str, Any]) -> None:
        self._view = view
        self._readiness = readiness

    def collect(self) -> Iterator[Metric]:
        readiness = self._readiness
        yield _gauge("ready", "1 if /health/ready responds with 200.", int(readiness["ready"]))
        for field, text in _GAUGES.items():
            yield _gauge(field, text, readiness[field])
        for field, (name, text) in _AGES.items():
            yield _gauge(name, text, readiness[field])
        yield _gauge(
            "consistent_timestamp_seconds",
            "Every file that was dropped before this time is published.",
            self._view.consistent_as_of,
        )
        status = self._view.pipeline_status
        if status is None:
            return
        yield _gauge(
            "lag_seconds",
            "How long the oldest change has waited; 0 if none waits.",
            readiness["oldest_dirty_age_s"] or 0,
        )
        yield _gauge("last_publish_timestamp_seconds", "The last publish.", status.last_publish_at)
        yield _gauge(
            "last_sweep_timestamp_seconds", "The start of the last sweep.", status.last_sweep_at
        )
        dirty = GaugeMetricFamily(
            "rowdrop_dirty_users", "Users that are not yet published.", labels=["cause"]
        )
        for cause, count in status.dirty_counts.items():
            dirty.add_metric([cause], count)
        yield dirty
        yield CounterMetricFamily(
            "rowdrop_lost_and_healed",
            "Rows that were wrong because an event was lost, until a sweep repaired them.",
            status.silent_repairs,
        )
        signals = CounterMetricFamily(
            "rowdrop_loss_signals", "Signs that events or writes were lost.", labels=["kind"]
        )
        for kind, count in status.loss_signals.items():
            signals.add_metric([kind], count)
        yield signals


METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""The text format that every version of Prometheus reads."""


def render_metrics(view: View, readiness: Mapping[str, Any]) -> bytes:
    """Return the metrics as text; `readiness` is the body of /health/ready for this view."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(view, readiness))
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"rowdrop_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family
