"""The throughput of GET /data and GET /stats, compared with constant responses on the same stack.

The constant responses have the same length.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from api import gunicorn_conf
from bench.figures import Figure, Goal, at_least, median
from bench.load import request, requests_per_second
from bench.rowdrop import Rowdrop, until
from local.ports import HOST, free_port
from local.processes import ROOT
from local.servers import http_get


class Question(NamedTuple):
    """An endless series of requests to the API, and the expected status and body."""

    name: str
    requests: Iterator[bytes]
    status: int
    body: bytes
    goal: Goal | None


def figures(rowdrop: Rowdrop, count: int, rounds: int, seconds: float) -> list[Figure]:
    """Measure each question and its constant response alternately and return the figures.

    There are `rounds` pairs of measurements, each of which takes `seconds`.
    """
    questions = [*_questions(rowdrop, "/data"), *_questions(rowdrop, "/stats")]
    found = []
    with _constants(rowdrop.folder / "constants", questions) as port:
        for number, question in enumerate(questions):
            rates, floors = list[float](), list[float]()
            for _ in range(rounds):
                floors.append(requests_per_second(port, repeat(request(f"/{number}")), 200, seconds))
                rates.append(requests_per_second(rowdrop.api_port, question.requests, question.status, seconds))
            name, samples = f"{question.name}, {count:,} users", f"{rounds} pairs of {seconds:g} s"
            found.append(Figure(name, median(rates), "req/s", median(floors), question.goal, samples))
    return found


def _questions(rowdrop: Rowdrop, path: str) -> Iterator[Question]:
    connection = rowdrop.connect_api()
    connection.request("GET", path)
    answer = connection.getresponse()
    body, etag = answer.read(), answer.headers["ETag"]
    # A limit of 100 years or more excludes no row, so each new limit is a new query (a cache miss)
    # with the same result.
    filters = f"{path}?is_image_exists=true&min_age=20&max_age="
    connection.request("GET", f"{filters}99")
    filtered = connection.getresponse().read()
    connection.close()
    yield Question(f"GET {path}", repeat(request(path)), 200, body, at_least(0.9))
    yield Question(f"GET {path}, 304", repeat(request(path, etag)), 304, b"", at_least(0.9))
    new = (request(f"{filters}{most}") for most in range(100, 100_000))
    yield Question(f"GET {path}, filtered, each new", new, 200, filtered, None)


@contextmanager
def _constants(folder: Path, questions: Sequence[Question]) -> Iterator[int]:
    """Serve these responses with gunicorn configured as for the API, and yield the port.

    Each question's number is its route.
    """
    folder.mkdir(exist_ok=True)
    for number, question in enumerate(questions):
        (folder / str(number)).write_bytes(question.body)
    port = free_port()
    with (folder.parent / "constants.out").open("wb") as out:
        process = subprocess.Popen(
            _command(port), cwd=ROOT, env=os.environ | {"BENCH_CONSTANTS": str(folder)}, stdout=out, stderr=out
        )
    try:
        until(lambda: http_get(port, "/0")[0] == 200, 30, "gunicorn", 0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def _command(port: int) -> list[str]:
    conf = gunicorn_conf
    # The same worker class, processes and threads as the API, or the floor would not be comparable.
    size = ["--worker-class", conf.worker_class, "--workers", str(conf.workers), "--threads", str(conf.threads)]
    gunicorn = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--preload", *size]
    return [*gunicorn, "--keep-alive", str(conf.keepalive), "--bind", f"{HOST}:{port}", "bench.constant:app"]
