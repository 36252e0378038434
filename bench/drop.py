"""The latency of one drop on an idle Rowdrop, until it is visible in output.csv and in GET /data.

The clock starts just before the client's PUT. Each round has three parts: the bare requests, a drop
watched in output.csv, and a drop watched in GET /data. They are interleaved with equal pauses, so
that all of them run under the same machine conditions.
"""

import random
import time
from collections.abc import Callable
from http.client import HTTPConnection

from bench.bare import BareDrop
from bench.figures import Figure, above_floor, at_most, percentile
from bench.rowdrop import Rowdrop, TookTooLong
from bench.users import Change, Users
from bench.watch import ObjectWatch
from shared.published import OUTPUT

_POLL_S = 0.003
_PATIENCE_S = 30.0


class DropBench:
    """Drops new CSVs of existing users. `chance` selects the users and the pauses."""

    def __init__(self, rowdrop: Rowdrop, users: Users, count: int, chance: random.Random) -> None:
        self._rowdrop, self._users, self._count, self._chance = rowdrop, users, count, chance
        self._watch, self._bare = ObjectWatch(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT), BareDrop(rowdrop)
        self._api = rowdrop.connect_api()
        self._known: str | None = None

    def run(self, warm_up: int, rounds: int, goal_p50: float, goal_p99: float | None) -> list[Figure]:
        """Run `warm_up` unmeasured rounds, then `rounds` measured ones, and return the figures.

        The goals are ratios to the time of the bare requests.
        """
        self._rounds(warm_up)
        floor, output, data = self._rounds(rounds)
        samples, users = f"{rounds} rounds", f"{self._count:,} users"

        def figure(name: str, share: float, ratio: float | None) -> Figure:
            values = percentile(output, share), "ms", percentile(floor, share)
            return Figure(f"drop → output.csv, {users}, {name}", *values, at_most(ratio) if ratio else None, samples)

        return [
            figure("p50", 0.5, goal_p50),
            figure("p99", 0.99, goal_p99),
            *(
                Figure(
                    f"drop → GET /data, {users}, {name} (floor: → output.csv)",
                    percentile(data, share),
                    "ms",
                    percentile(output, share),
                    above_floor(20, "ms"),
                    samples,
                )
                for name, share in (("p50", 0.5), ("p99", 0.99))
            ),
        ]

    def _rounds(self, rounds: int) -> tuple[list[float], list[float], list[float]]:
        floor, output, data = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            floor.append(self._timed(self._bare_drop))
            output.append(self._timed(self._drop_seen_in_output))
            data.append(self._timed(self._drop_seen_in_data))
        return floor, output, data

    def _timed(self, measure: Callable[[], float]) -> float:
        time.sleep(self._chance.uniform(0.1, 0.15))
        return 1000 * measure()

    def _next(self) -> Change:
        return self._users.change(self._chance.randrange(self._count))

    def _bare_drop(self) -> float:
        number = self._chance.randrange(self._count)
        csv = f"first_name,last_name,birthts\nIvan,Ivanov,{self._chance.randrange(10**12)}\n".encode()
        return self._bare.run(f"{Users.user_id(number)}.csv", csv, self._users.output.body, self._users.etag)

    def _drop_seen_in_output(self) -> float:
        change = self._next()
        began = time.perf_counter()
        self._rowdrop.source.put(change.key, change.body)
        took = self._watch.wait(change.etag) - began
        self._rowdrop.verify_output(self._users.output.body)
        return took

    def _drop_seen_in_data(self) -> float:
        change = self._next()
        wanted = b'"birthts":%d,' % change.birthts
        began = time.perf_counter()
        self._rowdrop.source.put(change.key, change.body)
        while wanted not in self._newer_data(self._api):
            if time.perf_counter() - began > _PATIENCE_S:
                raise TookTooLong("a dropped row did not appear in GET /data in time")
            time.sleep(_POLL_S)
        return time.perf_counter() - began

    def _newer_data(self, connection: HTTPConnection) -> bytes:
        """Return the body of GET /data if it has changed since the last call, else no bytes."""
        connection.request("GET", "/data", headers={"If-None-Match": self._known} if self._known else {})
        answer = connection.getresponse()
        body = answer.read()
        self._known = answer.headers["ETag"]
        return body
