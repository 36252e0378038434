"""Streams of changes from real API processes: latency, cost when idle, and their end."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from api.snapshot.changes import MAX_STREAMS
from shared.formats.output_csv import OUTPUT_HEADER
from tests.api_process import ONE_ROW_CSV, ApiEnvironment, wait_until

REQUEST = b"GET /changes HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_ROWS_CSV = ONE_ROW_CSV + b"0002,Ann,Lee,0,\n"
IDLE_STREAMS = 200
MAX_IDLE_SHARE = 0.05
"""Limit of the share of a core that all processes use more than without streams."""
MEASURED_S = 10.0


class StreamClient:
    """A client of the stream that collects what it receives."""

    def __init__(self, api_environment: ApiEnvironment) -> None:
        self.socket = socket.create_connection(("127.0.0.1", api_environment.api.port), 20)
        self.socket.sendall(REQUEST)
        self.received = b""

    def receive_until(self, text: bytes) -> None:
        while text not in self.received:
            part = self.socket.recv(1 << 16)
            assert part, f"the stream ended: {self.received!r}"
            self.received += part

    def receive_rest(self) -> None:
        while part := self.socket.recv(1 << 16):
            self.received += part

    def count_events(self, name: str) -> int:
        return self.received.count(f"event: {name}\n".encode())


@contextmanager
def open_streams(api_environment: ApiEnvironment, count: int) -> Iterator[list[StreamClient]]:
    streams = [StreamClient(api_environment) for _ in range(count)]
    try:
        for stream in streams:
            stream.receive_until(b"event: status")
        yield streams
    finally:
        for stream in streams:
            stream.socket.close()


def test_stream_reports_a_publish(api_environment: ApiEnvironment) -> None:
    with open_streams(api_environment, 4) as streams:
        assert [stream.count_events("table") for stream in streams] == [1] * 4
        api_environment.publish_output(TWO_ROWS_CSV)
        for stream in streams:
            stream.received = b""
            stream.receive_until(b"event: table")


def test_stream_ends_properly_when_its_process_stops(api_environment: ApiEnvironment) -> None:
    """A stream without an end must not use up the time in which requests may finish."""
    with open_streams(api_environment, 4) as streams:
        os.kill(api_environment.api.pid, signal.SIGTERM)
        for stream in streams:
            stream.receive_rest()
            assert stream.received.endswith(b"0\r\n\r\n")  # the last chunk


def test_streams_above_the_limit_are_refused(api_environment: ApiEnvironment) -> None:
    processes = psutil.Process(api_environment.api.pid).children()
    for process in processes[1:]:  # one process, so that all streams are its own
        process.suspend()
    try:
        with open_streams(api_environment, MAX_STREAMS):
            refused = api_environment.api.get("/changes")
            assert (refused.status, refused.json["type"]) == (503, "/docs#unavailable")
            assert "retry-after" in refused.headers
            assert api_environment.api.get("/stats").status == 200

        # The next event or heartbeat shows which clients have left.
        api_environment.publish_output(TWO_ROWS_CSV)

        def is_accepted() -> bool:
            stream = StreamClient(api_environment)
            stream.receive_until(b"\r\n")
            stream.socket.close()
            return stream.received.startswith(b"HTTP/1.1 200 ")

        wait_until(is_accepted)
    finally:
        for process in processes[1:]:
            process.resume()


def measure_cpu_share(api_environment: ApiEnvironment) -> float:
    """Return the share of a core that the API uses."""

    def measure() -> float:
        processes = psutil.Process(api_environment.api.pid).children()
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = measure()
    time.sleep(MEASURED_S)
    return (measure() - before) / MEASURED_S


def test_200_idle_streams_cost_little(api_environment: ApiEnvironment) -> None:
    api_environment.publish_output(OUTPUT_HEADER)
    wait_until(lambda: api_environment.shows_row_count(0))
    without = measure_cpu_share(api_environment)
    with open_streams(api_environment, IDLE_STREAMS) as streams:
        share = measure_cpu_share(api_environment)
        for stream in streams:
            assert stream.count_events("table") == 1
    print(f"share of a core: {without:.3f} without streams, {share:.3f} with {IDLE_STREAMS}")
    assert share - without < MAX_IDLE_SHARE
