"""The throughput of GET /data and GET /stats, compared with constant responses on the same stack.

The constant responses have the same length.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from api import gunicorn_conf
from bench.load import build_request, measure_requests_per_second
from bench.measurements import Goal, Measurement, compute_median, min_ratio
from bench.rowdrop import RowdropInstance, wait_until
from local.ports import HOST, find_free_port
from local.processes import ROOT
from local.servers import http_get


class WebCase(NamedTuple):
    """An endless series of requests to the API, and the expected status and body."""

    name: str
    requests: Iterator[bytes]
    status: int
    body: bytes
    goal: Goal | None


def measure_web(
    rowdrop: RowdropInstance, count: int, rounds: int, seconds: float
) -> list[Measurement]:
    """Measure each question and its constant response alternately and return the figures.

    There are `rounds` pairs of measurements, each of which takes `seconds`.
    """
    cases = [*_build_cases(rowdrop, "/data"), *_build_cases(rowdrop, "/stats")]
    measurements = []
    with _serve_constants(rowdrop.folder / "constants", cases) as port:
        for number, case in enumerate(cases):
            floor_request = build_request(f"/{number}")
            rates = list[float]()
            floor_rates = list[float]()
            for _ in range(rounds):
                floor_rates.append(
                    measure_requests_per_second(port, repeat(floor_request), 200, seconds)
                )
                rates.append(
                    measure_requests_per_second(
                        rowdrop.api_port, case.requests, case.status, seconds
                    )
                )
            name = f"{case.name}, {count:,} users"
            rate = compute_median(rates)
            floor = compute_median(floor_rates)
            samples = f"{rounds} pairs of {seconds:g} s"
            measurements.append(Measurement(name, rate, "req/s", floor, case.goal, samples))
    return measurements


def _build_cases(rowdrop: RowdropInstance, path: str) -> Iterator[WebCase]:
    connection = rowdrop.connect_api()
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    etag = response.headers["ETag"]
    # A limit of 100 years or more excludes no row, so each new limit is a new query (a cache miss)
    # with the same result.
    filters = f"{path}?is_image_exists=true&min_age=20&max_age="
    connection.request("GET", f"{filters}99")
    filtered = connection.getresponse().read()
    connection.close()
    yield WebCase(f"GET {path}", repeat(build_request(path)), 200, body, min_ratio(0.9))
    yield WebCase(f"GET {path}, 304", repeat(build_request(path, etag)), 304, b"", min_ratio(0.9))
    new_requests = (build_request(f"{filters}{max_age}") for max_age in range(100, 100_000))
    yield WebCase(f"GET {path}, filtered, each new", new_requests, 200, filtered, None)


@contextmanager
def _serve_constants(folder: Path, cases: Sequence[WebCase]) -> Iterator[int]:
    """Serve these responses with gunicorn configured as for the API, and yield the port.

    Each question's number is its route.
    """
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(cases):
        (folder / str(number)).write_bytes(case.body)
    port = find_free_port()
    with (folder.parent / "constants.out").open("wb") as out:
        process = subprocess.Popen(
            _build_command(port),
            cwd=ROOT,
            env=os.environ | {"BENCH_CONSTANTS": str(folder)},
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: http_get(port, "/0")[0] == 200, 30, "gunicorn", 0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def _build_command(port: int) -> list[str]:
    # The same worker class and processes as the API, or the floor would not be comparable.
    options = {
        "--worker-class": gunicorn_conf.worker_class,
        "--workers": str(gunicorn_conf.workers),
        "--keep-alive": str(gunicorn_conf.keepalive),
        "--bind": f"{HOST}:{port}",
    }
    gunicorn = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--preload"]
    return [*gunicorn, *chain.from_iterable(options.items()), "bench.constant:app"]
