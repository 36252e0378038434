"""Nothing blocks the event loop, also while large queries run."""

import asyncio
import time
from typing import NamedTuple

import uvloop
from falcon.testing import ASGIConductor

from api.snapshot.table import EMPTY_TABLE
from api.snapshot.view import View
from shared.formats.output_csv import OUTPUT_HEADER
from tests.unit.test_api_routes import NOON, Service

ROWS = 100_000
MAX_TURN_CPU_S = 0.03
"""Processor time of the loop's thread between two turns: over ten times what was measured."""
MIN_TURNS = 5
"""The queries together take longer than this many of the longest delay, also on a busy machine."""
QUERIES = (
    "/data?limit=50000&offset=7",
    "/data?min_age=3&format=csv",
    "/data?min_age=4&format=ndjson",
    "/data?min_age=5&format=parquet",
    "/data?q=Ann+Lee+a+b+c+d+e+f+g+h",
    "/data?sort=-first_name,birthts&limit=10",
    "/data?fields=user_id,birthts",
    "/data?fields=user_id&format=csv",
    "/data",
    "/stats?min_age=7",
)


def build_large_output() -> bytes:
    lines = (b"%06d,Ann,Lee,%d,src-data/%06d.png\n" % (n, n * 10**7, n) for n in range(ROWS))
    return OUTPUT_HEADER + b"".join(lines)


class LoopTimes(NamedTuple):
    """Times in seconds. `longest_cpu_s`: the processor time of the loop's thread in one turn."""

    longest_s: float
    longest_cpu_s: float
    duration_s: float


async def measure_loop_delay(service: Service) -> LoopTimes:
    """Return the longest turn of the loop while all queries run."""
    longest_s = longest_cpu_s = 0.0

    async def watch() -> None:
        nonlocal longest_s, longest_cpu_s
        while True:
            started_at, cpu_before_s = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.monotonic() - started_at - 0.001)
            longest_cpu_s = max(longest_cpu_s, time.thread_time() - cpu_before_s)

    headers = {"Host": "localhost", "Accept-Encoding": "gzip"}
    async with ASGIConductor(service.client.app) as conductor:
        watcher = asyncio.create_task(watch())
        started_at = time.monotonic()
        results = await asyncio.gather(
            *(conductor.simulate_get(query, headers=headers) for query in QUERIES)
        )
        duration_s = time.monotonic() - started_at
        watcher.cancel()
    assert [result.status_code for result in results] == [200] * len(QUERIES)
    return LoopTimes(longest_s, longest_cpu_s, duration_s)


def test_event_loop_is_not_blocked_by_large_queries() -> None:
    service = Service()
    table = EMPTY_TABLE.build_next_version(build_large_output(), "large")
    service.view = View(table, store_polled_at=NOON, redis_answered_at=NOON)
    times = uvloop.run(measure_loop_delay(service))
    service.redis.close()
    assert times.longest_cpu_s < MAX_TURN_CPU_S
    assert times.duration_s > MIN_TURNS * times.longest_s
