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

from bench import bundle, burst, idle, rebuild, sweep, web
from bench.drop import DropBench
from bench.figures import Figure, table
from bench.machine import facts
from bench.rowdrop import Rowdrop, TookTooLong, UnexpectedResult, running
from bench.users import Users
from local.errors import CannotRun
from local.screen import Screen
from local.signals import Stopped, raise_when_stopped
from shared.object_store import StoreUnavailable

NAMES = ("drop", "web", "burst", "rebuild", "sweep", "idle", "bundle")
FEW_USERS = 100


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a benchmark run: repetitions and durations in seconds.

    `warm_up` rounds of single drops precede the `rounds` that are measured.
    """

    users: int
    rounds: int
    warm_up: int = 5
    rebuilds: int = 3
    sweeps: int = 5
    web_rounds: int = 30
    web_s: float = 0.1
    quiet_s: float = 20.0
    idle_s: float = 60.0

    @property
    def few(self) -> int:
        """Return the small number of users: `FEW_USERS`, or half of `users` if that is less."""
        return max(1, min(FEW_USERS, self.users // 2))

    @property
    def bundled(self) -> int:
        """Return the number of users in the bundle.

        Each has a CSV and an image: 100,000 members by default.
        """
        return 5 * self.users


class Bench:
    """One run of the selected measurements.

    `figures` has the results so far, also if the run was interrupted.
    """

    def __init__(self, rowdrop: Rowdrop, size: Size, names: set[str], seed: int, report: Callable[[str], None]) -> None:
        self._rowdrop, self._size, self._names, self._report = rowdrop, size, names, report
        self._users, self._chance = Users(rowdrop.settings.source_bucket), random.Random(seed)
        self.figures: list[Figure] = []
        self.idle: list[idle.Share] = []

    def run(self) -> None:
        """Measure with few users, then drop many users and measure again."""
        size, rowdrop = self._size, self._rowdrop
        if self._names & {"drop", "web"}:
            burst.drop_all(rowdrop, self._users, size.few)
            self._at(size.few, 1.6, 2.0)
        self._report(f"{size.users:,} users dropped in a burst")
        if "burst" in self._names:
            self.figures += burst.figures(rowdrop, self._users, size.users)
        else:
            burst.drop_all(rowdrop, self._users, size.users)
        self._at(size.users, 1.3, None)
        for found in self._of_many():
            self.figures += found

    def _at(self, count: int, p50: float, p99: float | None) -> None:
        self._rowdrop.settle()
        if "drop" in self._names:
            self._report(f"single drops, {count:,} users")
            drops = DropBench(self._rowdrop, self._users, count, self._chance)
            self.figures += drops.run(self._size.warm_up, self._size.rounds, p50, p99)
        if "web" in self._names:
            self._report(f"GET /data and /stats, {count:,} users")
            self.figures += web.figures(self._rowdrop, count, self._size.web_rounds, self._size.web_s)

    def _of_many(self) -> Iterator[list[Figure]]:
        size = self._size
        self._rowdrop.settle()
        if "rebuild" in self._names:
            self._report("rebuilds")
            yield rebuild.figures(self._rowdrop, size.users, size.rebuilds)
        if "sweep" in self._names:
            self._report("sweeps")
            yield sweep.figures(self._rowdrop, size.users, size.sweeps)
        if "idle" in self._names:
            self._report(f"idle, {size.quiet_s + size.idle_s:.0f} s")
            self.idle = idle.shares(self._rowdrop, size.quiet_s, size.idle_s)
            yield idle.figures(self.idle, size.users, size.idle_s)
        if "bundle" in self._names:
            self._report(f"bundle of {2 * size.bundled:,} members")
            yield bundle.figures(self._rowdrop, self._users, size.users, size.bundled)


def main() -> int:
    """Run the benchmark and return the exit code.

    The code is 0 if everything was measured, even if goals are not met; 1 if something could not be
    measured; 130 if the run was interrupted.
    """
    asked = _arguments()
    size = Size(asked.users, asked.drops)
    if asked.quick:
        size = replace(size, warm_up=1, rebuilds=1, sweeps=1, web_rounds=1, web_s=0.1, quiet_s=1.0, idle_s=2.0)
    screen = Screen(sys.stderr)
    raise_when_stopped()
    try:
        with running(screen) as rowdrop:
            return _measure(rowdrop, size, asked, screen)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return 130


def _measure(rowdrop: Rowdrop, size: Size, asked: argparse.Namespace, screen: Screen) -> int:
    machine = facts(rowdrop) | {"seed": str(asked.seed)}
    print("\n".join(f"{name:<8}{value}" for name, value in machine.items()), flush=True)
    bench = Bench(rowdrop, size, set(asked.only or NAMES), asked.seed, screen)
    try:
        bench.run()
    except (TookTooLong, UnexpectedResult, StoreUnavailable, RedisError, HTTPException, OSError) as error:
        screen(f"bench: {error}")
        return 1
    finally:
        _print(bench)
        if asked.json:
            asked.json.write_text(json.dumps(_document(machine, bench), indent=1) + "\n", encoding="utf-8")
    return 0


def _print(bench: Bench) -> None:
    if bench.figures:
        print(f"\n{table(bench.figures)}")
    if bench.idle:
        print(f"\nidle, by process:\n{idle.lines(bench.idle)}")


def _document(machine: dict[str, str], bench: Bench) -> dict[str, object]:
    return {
        "machine": machine,
        "figures": [figure.to_dict() for figure in bench.figures],
        "idle": [share._asdict() for share in bench.idle],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--users", type=_positive, default=10_000, help="the large number of users (default: 10,000)")
    parser.add_argument("--drops", type=_positive, default=200, help="rounds of single drops per size (default: 200)")
    parser.add_argument("--quick", action="store_true", help="smoke test: run everything else once and briefly")
    parser.add_argument("--only", action="append", choices=NAMES, help="run this measurement only; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random choices (default: 1)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
