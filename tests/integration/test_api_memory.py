"""Clients that hold connections must not stop the API: the reproductions of the security review.

Each test probes `/health/live` on new connections while its clients hold theirs.
"""

import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import cast

import psutil
import yaml

from api.web.connections import REQUEST_TIMEOUT_S, SEND_TIMEOUT_S
from shared.formats.output_csv import OUTPUT_HEADER
from tests.api_process import ROOT, ApiEnvironment, wait_until

PROBE_COUNT = 20
"""Answers of `/health/live` that the API gives while clients hold connections."""
PROBE_TIMEOUT_S = 20.0
"""Timeout in seconds of one answer, after which the API counts as stopped."""
GROWTH_BYTES = 100_000_000
"""Limit of what all processes keep when the clients have left."""
ROW_COUNT = 100_000
LARGE_TABLE = OUTPUT_HEADER + b"".join(
    b"%06d,Ann,Lee,0,src-data/%06d.png\n" % (n, n) for n in range(ROW_COUNT)
)
SLOW_READERS = 130
HALF_BODIES = 900
HALF_BODY = (
    b"PUT /files/z.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n"
    + b"a" * 1_048_000
)


def read_memory_limit() -> int:
    """Return the default of `API_MEMORY` in docker-compose.yml, in bytes."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    gigabytes = re.fullmatch(r"\$\{API_MEMORY:-(\d+)g\}", services["api"]["mem_limit"])
    assert gigabytes
    return int(gigabytes[1]) << 30


class Observer(threading.Thread):
    """A thread that requests `/health/live` and measures the memory of the API, until stopped."""

    def __init__(self, api_environment: ApiEnvironment) -> None:
        super().__init__()
        self._api = api_environment.api
        self._stop_requested = threading.Event()
        self.probe_count = 0
        self.failures: list[str] = []
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._stop_requested.wait(0.1):
            try:
                probe_liveness(self._api.port)
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            self.probe_count += 1
            self.peak_bytes = max(self.peak_bytes, measure_memory(self._api.pid))

    def stop(self) -> None:
        self._stop_requested.set()
        self.join()

    def check_liveness(self) -> None:
        """Wait until the next probes have been answered, however long each of them takes."""
        expected = self.probe_count + 1 + PROBE_COUNT  # the probe that is running began earlier
        wait_until(
            lambda: self.failures or self.probe_count >= expected, PROBE_COUNT * PROBE_TIMEOUT_S
        )
        assert self.failures == []


def probe_liveness(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PROBE_TIMEOUT_S) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:100]


def measure_memory(pid: int) -> int:
    """Return the memory of the API in bytes; pages that its processes share count once."""
    arbiter = psutil.Process(pid)
    total = 0
    for process in (arbiter, *arbiter.children()):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


@contextmanager
def observe(api_environment: ApiEnvironment) -> Iterator[Observer]:
    """Observe the API; afterwards all probes must have succeeded, and both processes must live."""
    processes = psutil.Process(api_environment.api.pid).children()
    observer = Observer(api_environment)
    observer.start()
    try:
        yield observer
    finally:
        observer.stop()
    assert observer.failures == []
    assert psutil.Process(api_environment.api.pid).children() == processes


@contextmanager
def open_clients(api_environment: ApiEnvironment, requests: Iterable[bytes]) -> Iterator[None]:
    """Open a client for each request; none of them reads its answer."""
    with ExitStack() as clients:
        for request in requests:
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(("127.0.0.1", api_environment.api.port))
            client.sendall(request)
        yield


@contextmanager
def send_concurrently(
    api_environment: ApiEnvironment, request: bytes, count: int
) -> Iterator[None]:
    """Send a request on each of `count` connections concurrently, as far as the API receives it."""
    with selectors.DefaultSelector() as selector, ExitStack() as clients:
        for _ in range(count):
            client = clients.enter_context(socket.socket())
            client.connect(("127.0.0.1", api_environment.api.port))
            client.setblocking(False)
            selector.register(client, selectors.EVENT_WRITE, memoryview(request))
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                sender = cast(socket.socket, key.fileobj)
                try:
                    rest = key.data[sender.send(key.data[: 1 << 18]) :]
                except BlockingIOError:
                    continue
                except OSError:  # the API has closed the connection
                    rest = b""
                if rest:
                    selector.modify(sender, selectors.EVENT_WRITE, rest)
                else:
                    selector.unregister(sender)
        yield


def test_api_long_content_length_delays_no_client(api_environment: ApiEnvironment) -> None:
    requests = [
        b"GET %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % (path, length)
        for path in (b"/health/live", b"/data", b"/files/a.csv", b"/tasks")
        for length in (b"00000000000000000000009", b"9" * 23)
    ]
    with observe(api_environment) as observer, open_clients(api_environment, requests * 3):
        observer.check_liveness()


def test_api_slow_readers_delay_no_client_and_fill_no_log(
    api_environment: ApiEnvironment,
) -> None:
    """Another spelling of a path has no other limits, and a client that stalls is no error."""
    api_environment.source.put("big.png", bytes(8_000_000))
    request = b"GET /%66iles/big.png HTTP/1.1\r\nHost: localhost\r\n\r\n"
    log_before = api_environment.api.log.read_text()
    with observe(api_environment) as observer, open_clients(api_environment, [request] * 12):
        wait_until(lambda: count_connections(api_environment) >= 12)
        observer.check_liveness()
        wait_until(lambda: count_connections(api_environment) < 3, SEND_TIMEOUT_S + 20)
    log = api_environment.api.log.read_text().removeprefix(log_before)
    assert len(log.splitlines()) <= 12, log
    assert "Traceback" not in log


def count_connections(api_environment: ApiEnvironment) -> int:
    """Return the number of open connections of the API's clients."""
    count = 0
    for process in psutil.Process(api_environment.api.pid).children():
        connections = process.net_connections("tcp")
        count += sum(
            each.laddr.port == api_environment.api.port and each.status == psutil.CONN_ESTABLISHED
            for each in connections
        )
    return count


def test_api_slow_clients_fit_into_memory(api_environment: ApiEnvironment) -> None:
    """130 slow readers of different pages and 900 half bodies, at 100,000 rows."""
    api_environment.publish_output(LARGE_TABLE)
    wait_until(lambda: api_environment.shows_row_count(ROW_COUNT))
    # Fill the caches of both processes: they may keep those.
    for number in range(40):
        assert api_environment.api.get(f"/data?offset={ROW_COUNT // 2 + number}").status == 200
    memory_before = measure_memory(api_environment.api.pid)
    pages = [
        b"GET /data?offset=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (number + 1)
        for number in range(SLOW_READERS)
    ]
    with (
        observe(api_environment) as observer,
        open_clients(api_environment, pages),
        send_concurrently(api_environment, HALF_BODY, HALF_BODIES),
    ):
        observer.check_liveness()
    assert observer.peak_bytes < read_memory_limit()
    wait_until(
        lambda: measure_memory(api_environment.api.pid) < memory_before + GROWTH_BYTES,
        SEND_TIMEOUT_S + 20,
    )
    assert "Traceback" not in api_environment.api.log.read_text()
