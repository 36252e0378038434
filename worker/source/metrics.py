"""MinIO's metrics that may indicate lost events: process start times and notification errors."""

import json
from collections.abc import Iterator
from urllib.parse import urljoin

import urllib3
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from urllib3.exceptions import HTTPError

START_TIME_METRIC = "minio_node_process_starttime_seconds"
LOSS_COUNTERS = {
    "minio_notify_events_skipped_total": "events_skipped",
    "minio_notify_events_errors_total": "events_failed",
}


class MinioMetrics:
    """Reads MinIO's metrics from `/minio/v2/metrics/cluster`.

    `token` is a bearer token. It is required unless MinIO runs with
    `MINIO_PROMETHEUS_AUTH_TYPE=public`. MinIO caches its metrics for up to 10 s.
    """

    def __init__(self, endpoint: str, token: str) -> None:
        self._url = urljoin(endpoint, "/minio/v2/metrics/cluster")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=5), retries=False)

    def read(self) -> str | None:
        """Return the metrics as JSON text, to be compared for equality.

        A difference means that MinIO was restarted, or that it dropped or failed to send events.
        Returns None if the metrics are not available.
        """
        try:
            response = self._http.request("GET", self._url, headers=self._headers)
        except HTTPError:
            return None
        if response.status != 200:
            return None
        samples = _parse_samples(response.data.decode(errors="replace"))
        return json.dumps(sorted((s.name, s.labels.get("server", ""), s.value) for s in samples))


def _parse_samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in {START_TIME_METRIC, *LOSS_COUNTERS}:
                yield sample


def detect_losses(before: str, after: str) -> list[str]:
    """Return the kinds of loss signals between two results of `MinioMetrics.read`.

    Empty if both are equal. Pure.
    """
    if before == after:
        return []
    values_before = _index_by_server(before)
    values_after = _index_by_server(after)
    places = values_before.keys() | values_after.keys()
    changed_metrics = {
        name
        for name, server in places
        if values_before.get((name, server)) != values_after.get((name, server))
    }
    # A new process resets the counters, so a difference in them shows nothing more. If no value
    # differs, a text has the format of another release. That counts as a restart.
    if START_TIME_METRIC in changed_metrics or not changed_metrics:
        return ["minio_restarted"]
    return sorted(LOSS_COUNTERS[name] for name in changed_metrics)


def _index_by_server(metrics: str) -> dict[tuple[str, str], float]:
    try:
        return {(name, server): value for name, server, value in json.loads(metrics)}
    except (ValueError, TypeError):  # written by another release
        return {}
