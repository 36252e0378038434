"""Start a Rowdrop, measure it, and print each figure beside its floor and its goal."""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

from redis.exceptions import RedisError

from bench import bundle, burst, idle, page, rebuild, sweep, web
from bench.drop import DropMeasurement
from bench.machine import describe_machine
from bench.measurements import Measurement, render_table
from bench.rowdrop import RowdropInstance, UnexpectedResult, WaitTimeout, start_instance
from bench.users import BenchUsers
from local.errors import StartupError
from local.screen import Screen
from local.signals import StopRequested, raise_on_stop_signal
from shared.object_store import StoreUnavailable

MEASUREMENT_NAMES = ("drop", "web", "burst", "rebuild", "sweep", "idle", "page", "bundle")
SMALL_USER_COUNT = 100

_MEASUREMENT_ERRORS = (
    WaitTimeout,
    UnexpectedResult,
    StoreUnavailable,
    RedisError,
    HTTPException,
    OSError,
)


@dataclass(frozen=True, slots=True)
class BenchSize:
    """The size of a benchmark run: repetitions and durations in seconds.

    `warm_up_rounds` rounds of single drops precede the `rounds` that are measured.
    """

    users: int
    rounds: int
    warm_up_rounds: int = 5
    rebuild_count: int = 3
    sweep_count: int = 5
    web_rounds: int = 30
    web_s: float = 0.1
    settle_s: float = 20.0
    idle_s: float = 60.0
    page_drops: int = 30

    @property
    def small_user_count(self) -> int:
        """Return the small number of users: `SMALL_USER_COUNT`, but at most half of `users`."""
        return max(1, min(SMALL_USER_COUNT, self.users // 2))

    @property
    def bundled_user_count(self) -> int:
        """Return the number of users in the bundle.

        Each has a CSV and an image: 100,000 members by default.
        """
        return 5 * self.users


class BenchRun:
    """One run of the selected measurements.

    `measurements` has the results so far, also if the run was interrupted.
    """

    def __init__(
        self,
        rowdrop: RowdropInstance,
        size: BenchSize,
        names: set[str],
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self._rowdrop = rowdrop
        self._size = size
        self._names = names
        self._report = report
        self._users = BenchUsers(rowdrop.settings.source_bucket)
        self._rng = random.Random(seed)
        self.measurements: list[Measurement] = []
        self.idle_usage: list[idle.ProcessUsage] = []

    def run(self) -> None:
        """Measure with few users, then drop many users and measure again."""
        size = self._size
        rowdrop = self._rowdrop
        if self._names & {"drop", "web"}:
            burst.drop_users(rowdrop, self._users, size.small_user_count)
            self._measure_at(size.small_user_count, 1.6, 2.0)
        self._report(f"{size.users:,} users dropped in a burst")
        if "burst" in self._names:
            self.measurements += burst.measure_burst(rowdrop, self._users, size.users)
        else:
            burst.drop_users(rowdrop, self._users, size.users)
        self._measure_at(size.users, 1.3, None)
        for new_measurements in self._measure_many():
            self.measurements += new_measurements

    def _measure_at(self, count: int, goal_p50: float, goal_p99: float | None) -> None:
        self._rowdrop.wait_until_idle()
        if "drop" in self._names:
            self._report(f"single drops, {count:,} users")
            drop_measurement = DropMeasurement(self._rowdrop, self._users, count, self._rng)
            self.measurements += drop_measurement.measure(
                self._size.warm_up_rounds, self._size.rounds, goal_p50, goal_p99
            )
        if "web" in self._names:
            self._report(f"GET /data and /stats, {count:,} users")
            self.measurements += web.measure_web(
                self._rowdrop, count, self._size.web_rounds, self._size.web_s
            )

    def _measure_many(self) -> Iterator[list[Measurement]]:
        size = self._size
        self._rowdrop.wait_until_idle()
        if "rebuild" in self._names:
            self._report("rebuilds")
            yield rebuild.measure_rebuilds(self._rowdrop, size.users, size.rebuild_count)
        if "sweep" in self._names:
            self._report("sweeps")
            yield sweep.measure_sweeps(self._rowdrop, size.users, size.sweep_count)
        if "idle" in self._names:
            self._report(f"idle, {size.settle_s + size.idle_s:.0f} s")
            self.idle_usage = idle.measure_usage(self._rowdrop, size.settle_s, size.idle_s)
            yield idle.summarize_usage(self.idle_usage, size.users, size.idle_s)
        if "page" in self._names:
            self._report(f"the page, {size.users:,} users")
            yield page.measure_page(
                self._rowdrop, self._users, size.users, size.page_drops, self._rng
            )
        if "bundle" in self._names:
            self._report(f"bundle of {2 * size.bundled_user_count:,} members")
            yield bundle.measure_bundle(
                self._rowdrop, self._users, size.users, size.bundled_user_count
            )


def main() -> int:
    """Run the benchmark and return the exit code.

    The code is 0 if everything was measured, even if goals are not met; 1 if something could not be
    measured; 130 if the run was interrupted.
    """
    arguments = _parse_arguments()
    size = BenchSize(arguments.users, arguments.drops)
    if arguments.quick:
        size = replace(
            size,
            warm_up_rounds=1,
            rebuild_count=1,
            sweep_count=1,
            web_rounds=1,
            web_s=0.1,
            settle_s=1.0,
            idle_s=2.0,
            page_drops=2,
        )
    screen = Screen(sys.stderr)
    raise_on_stop_signal()
    try:
        with start_instance(screen) as rowdrop:
            return _run_bench(rowdrop, size, arguments, screen)
    except StartupError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except StopRequested:
        return 130


def _run_bench(
    rowdrop: RowdropInstance, size: BenchSize, arguments: argparse.Namespace, screen: Screen
) -> int:
    machine = describe_machine(rowdrop) | {"seed": str(arguments.seed)}
    print("\n".join(f"{name:<8}{value}" for name, value in machine.items()), flush=True)
    names = set(arguments.only or MEASUREMENT_NAMES)
    bench = BenchRun(rowdrop, size, names, arguments.seed, screen)
    try:
        bench.run()
    except _MEASUREMENT_ERRORS as error:
        screen(f"bench: {error}")
        return 1
    finally:
        _print_results(bench)
        if arguments.json:
            text = json.dumps(_build_json(machine, bench), indent=1)
            arguments.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


def _print_results(bench: BenchRun) -> None:
    if bench.measurements:
        print(f"\n{render_table(bench.measurements)}")
    if bench.idle_usage:
        print(f"\nidle, by process:\n{idle.format_usage(bench.idle_usage)}")


def _build_json(machine: dict[str, str], bench: BenchRun) -> dict[str, object]:
    return {
        "machine": machine,
        "figures": [measurement.to_dict() for measurement in bench.measurements],
        "idle": [usage._asdict() for usage in bench.idle_usage],
    }


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--users",
        type=_parse_positive,
        default=10_000,
        help="the large number of users (default: 10,000)",
    )
    parser.add_argument(
        "--drops",
        type=_parse_positive,
        default=200,
        help="rounds of single drops per size (default: 200)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="smoke test: run everything else once and briefly"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASUREMENT_NAMES,
        help="run this measurement only; may be repeated",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all results to this file"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the random choices (default: 1)"
    )
    return parser.parse_args()


def _parse_positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
