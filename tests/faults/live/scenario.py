"""The environment in which one fault is tested, and the finding that results."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.live.observer import TrafficObserver
from tests.faults.live.rowdrop import LiveRowdrop, WaitTimeout, wait_until
from tests.faults.live.traffic import Traffic

QUIET_LIMIT_S = 180.0
"""Timeout in seconds, once the rows are right, for all other work, a sweep included."""
REMOVAL_LIMIT_S = 75.0
"""Timeout in seconds with a protection removed.

It is shorter, because no scenario with all protections ever took this long.
"""


@dataclass
class Finding:
    """The result of a fault scenario.

    `bundled`: number of acknowledged writes that were bundles. `converged_s`: seconds from the end
    of the fault until every row was right (None: never).
    """

    name: str
    seed: int
    without: str = ""
    bound_s: float = 0.0
    acknowledged: int = 0
    bundled: int = 0
    lost: int = 0
    doubled: int = 0
    stale: int = 0
    converged_s: float | None = None
    figures: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def check(self, what: str, *, holds: bool) -> None:
        """Record `what` as a failure unless it `holds`."""
        if not holds:
            self.failures.append(what)


class ScenarioRun:
    """The environment of a scenario.

    It has a folder and a seed, runs the long or the short form, and has one protection removed
    (`without`) or none.
    """

    def __init__(
        self, name: str, folder: Path, seed: int, *, long: bool, without: str = ""
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.long = long
        self.finding = Finding(name, seed, without)
        self._rowdrop_count = 0

    @contextmanager
    def start_rowdrop(self, **options: Any) -> Iterator[LiveRowdrop]:  # noqa: ANN401
        """Start a Rowdrop for this scenario, and stop it at the end."""
        self._rowdrop_count += 1
        with LiveRowdrop(
            self.folder / f"{self._rowdrop_count}",
            removed_protection=self.finding.without,
            **options,
        ) as live:
            yield live

    @contextmanager
    def start_traffic(
        self,
        live: LiveRowdrop,
        **options: Any,  # noqa: ANN401
    ) -> Iterator[tuple[Traffic, TrafficObserver]]:
        """Run clients that write files and clients that read results.

        At the end, what they found is added to the finding.
        """
        traffic = Traffic(live, self.seed, **options)
        with TrafficObserver(live, traffic) as observer, traffic:
            yield traffic, observer
        self.finding.acknowledged += traffic.acknowledged
        self.finding.bundled += traffic.bundled
        self.finding.stale += len(observer.stale)
        self.finding.doubled += len(observer.duplicate_users)
        self.finding.failures += [f"stale: {stale}" for stale in observer.stale[:5]]
        self.finding.check(
            "output.csv: expected one line per user, found users with two lines",
            holds=not observer.duplicate_users,
        )

    def wait_until_correct(
        self, live: LiveRowdrop, traffic: Traffic, bound_s: float, since: float | None = None
    ) -> None:
        """End the traffic, and wait until every row is right.

        The rows must be right within `bound_s` seconds after `since` (monotonic clock, default:
        now). Then no work may be left, and `rowdrop check` must find no difference.
        """
        since = time.monotonic() if since is None else since
        if self.finding.without:
            bound_s = min(bound_s, REMOVAL_LIMIT_S)
        traffic.stop()
        traffic.confirm_uncertain()
        self.finding.bound_s = max(self.finding.bound_s, bound_s)
        try:
            wait_until(
                lambda: not traffic.find_wrong_users(live.read_rows()),
                since + bound_s - time.monotonic(),
                "every row is right",
            )
        except WaitTimeout:
            wrong_users = traffic.find_wrong_users(live.read_rows())
            self.finding.lost += len(wrong_users)
            self.finding.failures.append(
                f"expected every row to be right after {bound_s:.0f} s, "
                f"found {len(wrong_users)} wrong rows: {wrong_users[:3]}"
            )
            return
        self.finding.converged_s = max(self.finding.converged_s or 0, time.monotonic() - since)
        self.wait_until_quiet(live)

    def wait_until_quiet(self, live: LiveRowdrop) -> None:
        """Wait until no work is left, and compare everything with `rowdrop check`."""
        try:
            wait_until(
                live.is_quiet,
                REMOVAL_LIMIT_S if self.finding.without else QUIET_LIMIT_S,
                "no work is left",
            )
        except WaitTimeout as error:
            self.finding.failures.append(str(error))
        differences = live.find_differences()
        self.finding.lost += len(differences)
        self.finding.failures += differences[:5]


@dataclass(frozen=True)
class Scenario:
    """A fault scenario.

    - `protections`: names in `PROTECTIONS`. Without any one of them the fault loses data.
    - `in_short_form`: the scenario is part of the short form of the tests.
    - `needs_long_form`: with a protection removed, only the long form does harm.
    """

    run: Callable[[ScenarioRun], None]
    protections: tuple[str, ...] = ()
    in_short_form: bool = False
    needs_long_form: bool = False


Scenarios = Mapping[str, Scenario]
