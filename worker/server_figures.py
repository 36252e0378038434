"""MinIO's metrics that may indicate lost events: process start times and notification errors."""

import json
from collections.abc import Iterator
from urllib.parse import urljoin

import urllib3
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from urllib3.exceptions import HTTPError

STARTED = "minio_node_process_starttime_seconds"
COUNTERS = {
    "minio_notify_events_skipped_total": "events_skipped",
    "minio_notify_events_errors_total": "events_failed",
}
QUEUE_LENGTH, SAFE_TARGET = "minio_notify_target_queue_length", "SAFE"


class ServerFigures:
    """Reads MinIO's metrics from `/minio/v2/metrics/cluster`.

    `token` is a bearer token. It is required unless MinIO runs with
    `MINIO_PROMETHEUS_AUTH_TYPE=public`. MinIO caches its metrics for up to 10 s.
    """

    safe_queue: int = 0
    """Number of durable event copies in MinIO's on-disk queue at the last `read`."""

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
            answer = self._http.request("GET", self._url, headers=self._headers)
        except HTTPError:
            return None
        if answer.status != 200:
            return None
        samples = list(_samples(answer.data.decode(errors="replace")))
        self.safe_queue = sum(int(sample.value) for sample in samples if sample.name == QUEUE_LENGTH)
        return json.dumps(
            sorted((s.name, s.labels.get("server", ""), s.value) for s in samples if s.name != QUEUE_LENGTH)
        )


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Targets of other applications have queues of their own.
            is_ours = sample.name != QUEUE_LENGTH or sample.labels.get("target_id") == SAFE_TARGET
            if sample.name in {STARTED, QUEUE_LENGTH, *COUNTERS} and is_ours:
                yield sample


def evidence(known: str, now: str) -> list[str]:
    """Return the kinds of loss signals between two results of `ServerFigures.read`.

    Empty if both are equal. Pure.
    """
    if known == now:
        return []
    before, after = _by_place(known), _by_place(now)
    places = before.keys() | after.keys()
    differs = {name for name, server in places if before.get((name, server)) != after.get((name, server))}
    # A new process resets the counters, so a difference in them shows nothing more. If no value
    # differs, a text has the format of another release. That counts as a restart.
    if STARTED in differs or not differs:
        return ["minio_restarted"]
    return sorted(COUNTERS[name] for name in differs)


def _by_place(figures: str) -> dict[tuple[str, str], float]:
    try:
        return {(name, server): value for name, server, value in json.loads(figures)}
    except (ValueError, TypeError):  # written by another release
        return {}
