"""What a measurement says: a figure, the floor it stands on, and the goal for the two; and the statistics.  Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor as whole
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the values lies, linear between two of them; 0.5 is the median.

    Raises `ValueError` without values, or for another share.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("needs values, and a share from 0 to 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = whole(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    """The middle one.  Raises `ValueError` without values."""
    return percentile(values, 0.5)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: as a text, and as a judgement of a measured value and its floor (0 where it has none)."""

    text: str
    reached: Callable[[float, float], bool]


def at_most(bound: float) -> Goal:
    """At most so many times the floor."""
    return Goal(f"≤ {bound} × floor", lambda measured, floor: measured <= bound * floor)


def at_least(bound: float) -> Goal:
    """At least so many times the floor."""
    return Goal(f"≥ {bound} × floor", lambda measured, floor: measured >= bound * floor)


def above_floor(bound: float, unit: str) -> Goal:
    """At most so much more than the floor."""
    return Goal(f"≤ floor + {bound:g} {unit}", lambda measured, floor: measured <= floor + bound)


def below(bound: float, unit: str) -> Goal:
    """Less than this, whatever the floor."""
    return Goal(f"< {bound:g} {unit}", lambda measured, floor: measured < bound)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result.  `floor` is in the same unit; a figure without a goal is for information."""

    name: str
    measured: float
    unit: str
    floor: float | None
    goal: Goal | None
    samples: str

    @property
    def ratio(self) -> float | None:
        """How many times its floor it is."""
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.goal.reached(self.measured, self.floor or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON has it."""
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


HEADER = ("", "measured", "floor", "ratio", "goal", "", "samples")


def table(figures: Iterable[Figure]) -> str:
    """The figures as text, a line each."""
    lines = [HEADER, *map(_cells, figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    left = (0, 4, 5, 6)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        amount(figure.measured, figure.unit),
        "" if figure.floor is None else amount(figure.floor, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        figure.goal.text if figure.goal else "",
        {True: "met", False: "NOT MET", None: "–"}[figure.met],
        figure.samples,
    )


def amount(value: float, unit: str) -> str:
    """A value with its unit, in three digits or more: `7.31 ms`, `48,210 req/s`."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f} {unit}"
