"""Tests of `worker.source.metrics`: MinIO's metrics, and the loss signals between two reads."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from worker.source.metrics import START_TIME_METRIC, MinioMetrics, detect_losses

SKIPPED = "minio_notify_events_skipped_total"
ERRORS = "minio_notify_events_errors_total"


def encode_metrics(
    started: float = 1.5, skipped: float = 0, errors: float = 0, server: str = "a:9000"
) -> str:
    return json.dumps(
        [[START_TIME_METRIC, server, started], [SKIPPED, server, skipped], [ERRORS, server, errors]]
    )


@pytest.mark.parametrize(
    ("now", "kinds"),
    [
        (encode_metrics(), []),
        (encode_metrics(started=2.5), ["minio_restarted"]),
        (
            encode_metrics(started=2.5, errors=3),
            ["minio_restarted"],
        ),  # a new process resets its counters
        (encode_metrics(skipped=1), ["events_skipped"]),
        (encode_metrics(errors=1), ["events_failed"]),
        (encode_metrics(errors=1, skipped=1), ["events_failed", "events_skipped"]),
        (
            json.dumps(
                [*json.loads(encode_metrics()), *json.loads(encode_metrics(server="b:9000"))]
            ),
            ["minio_restarted"],
        ),
        ("[]", ["minio_restarted"]),
        ("[1, 2]", ["minio_restarted"]),
    ],
)
def test_detect_losses_names_each_difference(now: str, kinds: list[str]) -> None:
    assert detect_losses(encode_metrics(), now) == kinds


@pytest.mark.parametrize(
    ("known", "now"), [("[0, 0]", "[0, 1]"), ("", encode_metrics()), ("null", "7"), ("{", "}")]
)
def test_detect_losses_reports_metrics_of_another_release(known: str, now: str) -> None:
    assert detect_losses(known, now) == ["minio_restarted"]
    assert detect_losses(known, known) == []


METRICS = """\
# HELP minio_notify_target_queue_length Number of events currently staged in the queue_dir \
configured for the target
# TYPE minio_notify_target_queue_length gauge
minio_notify_target_queue_length{server="a:9000",target_id="FAST",target_name="redis"} 1
minio_notify_target_queue_length{server="a:9000",target_id="theirs",target_name="kafka"} 500
# HELP minio_node_process_starttime_seconds Start time for MinIO process per node, \
time in seconds since Unix epoc
# TYPE minio_node_process_starttime_seconds gauge
minio_node_process_starttime_seconds{server="a:9000"} 1.79565412914e+09
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_minio_metrics_select_what_indicates_losses(endpoint: str) -> None:
    metrics = MinioMetrics(endpoint, "")
    assert json.loads(metrics.read() or "") == [[START_TIME_METRIC, "a:9000", 1795654129.14]]
