"""What MinIO and Redis tell of themselves that may mean lost events: restarts, and counters of failed notifications."""

import json
from collections.abc import Iterator
from urllib.parse import urljoin

import urllib3
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

STARTED = "minio_node_process_starttime_seconds"
COUNTERS = ("minio_notify_events_skipped_total", "minio_notify_events_errors_total")


class ServerFigures:
    """Reads MinIO's own figures from `/minio/v2/metrics/cluster`.

    It answers without a token only if MinIO runs with `MINIO_PROMETHEUS_AUTH_TYPE=public`; else `token` is needed.
    """

    def __init__(self, endpoint: str, token: str) -> None:
        self._url = urljoin(endpoint, "/minio/v2/metrics/cluster")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=5), retries=False)

    def read(self) -> str | None:
        """The figures as one text, to be compared for equality; None if this server does not tell them.

        A difference means that MinIO was started anew, or that it dropped or failed to send events.
        """
        try:
            answer = self._http.request("GET", self._url, headers=self._headers)
        except HTTPError:
            return None
        if answer.status != 200:
            return None
        return json.dumps(sorted(_figures(answer.data.decode(errors="replace"))))


def _figures(text: str) -> Iterator[tuple[str, str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == STARTED or sample.name in COUNTERS:
                yield sample.name, sample.labels.get("server", ""), sample.value
