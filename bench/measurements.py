"""Figures, their floors and goals, percentiles, and the table of results. Pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def compute_percentile(values: Sequence[float], quantile: float) -> float:
    """Return a percentile of the values, interpolated linearly.

    `quantile` is from 0 to 1; 0.5 gives the median. Raises `ValueError` if there are no values
    or `quantile` is out of range.
    """
    if not values or not 0 <= quantile <= 1:
        raise ValueError("a percentile needs values, and a quantile from 0 to 1")
    ordered = sorted(values)
    position = quantile * (len(ordered) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (position - lower) * (ordered[upper] - ordered[lower])


def compute_median(values: Sequence[float]) -> float:
    """Return the median. Raises `ValueError` if there are no values."""
    return compute_percentile(values, 0.5)


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal for a figure, as a text and as a predicate.

    `is_met` takes the measured value and its floor, which is 0 if the figure has none.
    """

    text: str
    is_met: Callable[[float, float], bool]


def max_ratio(bound: float) -> Goal:
    """Return the goal of at most `bound` times the floor."""
    return Goal(f"≤ {bound} × floor", lambda measured, floor: measured <= bound * floor)


def min_ratio(bound: float) -> Goal:
    """Return the goal of at least `bound` times the floor."""
    return Goal(f"≥ {bound} × floor", lambda measured, floor: measured >= bound * floor)


def max_above_floor(bound: float, unit: str) -> Goal:
    """Return the goal of at most `bound` above the floor."""
    return Goal(f"≤ floor + {bound:g} {unit}", lambda measured, floor: measured <= floor + bound)


def max_value(bound: float, unit: str) -> Goal:
    """Return the goal of less than `bound`, independent of the floor."""
    return Goal(f"< {bound:g} {unit}", lambda measured, floor: measured < bound)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the results.

    `floor` is in the same unit as `measured`. A figure without a goal is for information only.
    """

    name: str
    measured: float
    unit: str
    floor: float | None
    goal: Goal | None
    samples: str

    @property
    def ratio(self) -> float | None:
        """Return the ratio of the measured value to the floor, or None if there is no floor."""
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Return whether the goal is reached, or None if there is no goal."""
        return None if self.goal is None else self.goal.is_met(self.measured, self.floor or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as a dict for JSON."""
        return {
            "name": self.name,
            "measured": self.measured,
            "unit": self.unit,
            "floor": self.floor,
            "ratio": self.ratio,
            "goal": self.goal.text if self.goal else None,
            "met": self.met,
            "samples": self.samples,
        }


TABLE_HEADER = ("", "measured", "floor", "ratio", "goal", "", "samples")
# Left-aligned. The other columns are numbers, which are right-aligned.
_TEXT_COLUMNS = frozenset({0, 4, 5, 6})


def render_table(measurements: Iterable[Measurement]) -> str:
    """Format the figures as an aligned text table, one line per figure."""
    lines = [TABLE_HEADER, *map(_format_cells, measurements)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(TABLE_HEADER))]
    return "\n".join(_align_cells(line, widths) for line in lines)


def _align_cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if column in _TEXT_COLUMNS else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _format_cells(measurement: Measurement) -> tuple[str, ...]:
    return (
        measurement.name,
        format_amount(measurement.measured, measurement.unit),
        "" if measurement.floor is None else format_amount(measurement.floor, measurement.unit),
        "" if measurement.ratio is None else f"{measurement.ratio:.2f}",
        measurement.goal.text if measurement.goal else "",
        {True: "met", False: "NOT MET", None: "–"}[measurement.met],
        measurement.samples,
    )


def format_amount(value: float, unit: str) -> str:
    """Format a value and its unit with at least three digits: `7.31 ms`, `48,210 req/s`."""
    if abs(value) < 10:
        digits = 2
    elif abs(value) < 100:
        digits = 1
    else:
        digits = 0
    return f"{value:,.{digits}f} {unit}"
