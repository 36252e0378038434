"""The throughput of GET /data and GET /stats, compared with constant responses on the same server.

The constant responses have the same status, headers and bytes, sent by a bare ASGI function.
"""

import json
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

_GOAL = min_ratio(0.8)
_SERVER_HEADERS = frozenset({"server", "date", "connection"})


class WebCase(NamedTuple):
    """An endless series of requests to the API, and the expected response.

    `etag` is that of `If-None-Match`, None without it.
    """

    name: str
    requests: Iterator[bytes]
    etag: str | None
    status: int
    headers: Sequence[tuple[str, str]]
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
            floor_request = build_request(f"/{number}", case.etag)
            rates = list[float]()
            floor_rates = list[float]()
            for _ in range(rounds):
                floor_rates.append(
                    measure_requests_per_second(port, repeat(floor_request), case.status, seconds)
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
    # A limit of 100 years or more excludes no row, so each new limit is a new query (a cache miss)
    # with the same result.
    filters = f"{path}?is_image_exists=true&min_age=20&max_age="
    new_requests = (build_request(f"{filters}{max_age}") for max_age in range(100, 100_000))
    plain = _build_case(rowdrop, f"GET {path}", path, None)
    etag = dict(plain.headers)["etag"]
    filtered = _build_case(rowdrop, f"GET {path}, filtered, each new", f"{filters}99", None)
    yield plain
    yield _build_case(rowdrop, f"GET {path}, 304", path, etag)
    yield filtered._replace(requests=new_requests, goal=None)


def _build_case(rowdrop: RowdropInstance, name: str, path: str, etag: str | None) -> WebCase:
    connection = rowdrop.connect_api()
    connection.request("GET", path, headers={"If-None-Match": etag} if etag else {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    headers = [(header.lower(), value) for header, value in response.getheaders()]
    own_headers = [pair for pair in headers if pair[0] not in _SERVER_HEADERS]
    requests = repeat(build_request(path, etag))
    return WebCase(name, requests, etag, response.status, own_headers, body, _GOAL)


@contextmanager
def _serve_constants(folder: Path, cases: Sequence[WebCase]) -> Iterator[int]:
    """Serve these responses with gunicorn configured as for the API, and yield the port.

    The number of a case is its path.
    """
    for number, case in enumerate(cases):
        case_folder = folder / str(number)
        case_folder.mkdir(parents=True, exist_ok=True)
        head = {"status": case.status, "headers": case.headers}
        (case_folder / "head.json").write_text(json.dumps(head), encoding="utf-8")
        (case_folder / "body").write_bytes(case.body)
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
    # The same server and processes as the API, or the floor would not be comparable.
    options = {
        "--worker-class": gunicorn_conf.worker_class,
        "--asgi-loop": gunicorn_conf.asgi_loop,
        "--asgi-lifespan": gunicorn_conf.asgi_lifespan,
        "--workers": str(gunicorn_conf.workers),
        "--keep-alive": str(gunicorn_conf.keepalive),
        "--bind": f"{HOST}:{port}",
    }
    gunicorn = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--preload"]
    return [*gunicorn, *chain.from_iterable(options.items()), "bench.constant:app"]
