"""The latency of one drop on an idle Rowdrop, until it is visible in output.csv and in GET /data.

The clock starts just before the client's PUT. Each round has three parts: the bare requests, a drop
watched in output.csv, and a drop watched in GET /data. They are interleaved with equal pauses, so
that all of them run under the same machine conditions.
"""

import random
import time
from collections.abc import Callable
from http.client import HTTPConnection

from bench.bare import DropFloor
from bench.measurements import Measurement, compute_percentile, max_above_floor, max_ratio
from bench.rowdrop import RowdropInstance, WaitTimeout
from bench.users import BenchUsers, CsvChange
from bench.watch import ObjectWatcher
from shared.formats.object_names import OUTPUT_KEY

_POLL_S = 0.003
_TIMEOUT_S = 30.0


class DropMeasurement:
    """Drops new CSVs of existing users. `rng` selects the users and the pauses."""

    def __init__(
        self, rowdrop: RowdropInstance, users: BenchUsers, count: int, rng: random.Random
    ) -> None:
        self._rowdrop = rowdrop
        self._users = users
        self._count = count
        self._rng = rng
        self._watcher = ObjectWatcher(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT_KEY)
        self._floor = DropFloor(rowdrop)
        self._api = rowdrop.connect_api()
        self._known_etag: str | None = None

    def measure(
        self, warm_up: int, rounds: int, goal_p50: float, goal_p99: float | None
    ) -> list[Measurement]:
        """Run `warm_up` unmeasured rounds, then `rounds` measured ones, and return the figures.

        The goals are ratios to the time of the bare requests.
        """
        self._run_rounds(warm_up)
        floor, output, data = self._run_rounds(rounds)
        samples = f"{rounds} rounds"
        users = f"{self._count:,} users"

        def build_output_row(name: str, quantile: float, goal_ratio: float | None) -> Measurement:
            measured = compute_percentile(output, quantile)
            floor_ms = compute_percentile(floor, quantile)
            goal = max_ratio(goal_ratio) if goal_ratio else None
            full_name = f"drop → output.csv, {users}, {name}"
            return Measurement(full_name, measured, "ms", floor_ms, goal, samples)

        def build_data_row(name: str, quantile: float) -> Measurement:
            measured = compute_percentile(data, quantile)
            floor_ms = compute_percentile(output, quantile)
            goal = max_above_floor(20, "ms")
            full_name = f"drop → GET /data, {users}, {name} (floor: → output.csv)"
            return Measurement(full_name, measured, "ms", floor_ms, goal, samples)

        return [
            build_output_row("p50", 0.5, goal_p50),
            build_output_row("p99", 0.99, goal_p99),
            build_data_row("p50", 0.5),
            build_data_row("p99", 0.99),
        ]

    def _run_rounds(self, rounds: int) -> tuple[list[float], list[float], list[float]]:
        floor = list[float]()
        output = list[float]()
        data = list[float]()
        for _ in range(rounds):
            floor.append(self._time_ms(self._measure_floor))
            output.append(self._time_ms(self._measure_output))
            data.append(self._time_ms(self._measure_data))
        return floor, output, data

    def _time_ms(self, measure: Callable[[], float]) -> float:
        time.sleep(self._rng.uniform(0.1, 0.15))
        return 1000 * measure()

    def _make_change(self) -> CsvChange:
        return self._users.make_change(self._rng.randrange(self._count))

    def _measure_floor(self) -> float:
        number = self._rng.randrange(self._count)
        csv = f"first_name,last_name,birthts\nIvan,Ivanov,{self._rng.randrange(10**12)}\n".encode()
        key = f"{BenchUsers.format_user_id(number)}.csv"
        return self._floor.measure(key, csv, self._users.output.body, self._users.etag)

    def _measure_output(self) -> float:
        change = self._make_change()
        started_at = time.perf_counter()
        self._rowdrop.source.put(change.key, change.body)
        elapsed_s = self._watcher.wait_for_etag(change.etag) - started_at
        self._rowdrop.verify_output(self._users.output.body)
        return elapsed_s

    def _measure_data(self) -> float:
        change = self._make_change()
        expected_text = b'"birthts":%d,' % change.birthts
        started_at = time.perf_counter()
        self._rowdrop.source.put(change.key, change.body)
        while expected_text not in self._get_changed_data(self._api):
            if time.perf_counter() - started_at > _TIMEOUT_S:
                raise WaitTimeout("a dropped row did not appear in GET /data in time")
            time.sleep(_POLL_S)
        return time.perf_counter() - started_at

    def _get_changed_data(self, connection: HTTPConnection) -> bytes:
        """Return the body of GET /data if it has changed since the last call, else no bytes."""
        headers = {"If-None-Match": self._known_etag} if self._known_etag else {}
        connection.request("GET", "/data", headers=headers)
        response = connection.getresponse()
        body = response.read()
        self._known_etag = response.headers["ETag"]
        return body
