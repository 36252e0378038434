"""Tests of `bench.measurements`: percentiles, goals, and the table of results."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measurements import (
    Goal,
    Measurement,
    compute_median,
    compute_percentile,
    format_amount,
    max_above_floor,
    max_ratio,
    max_value,
    min_ratio,
    render_table,
)

VALUES = st.lists(st.floats(0, 1e6), min_size=1)


def test_compute_median_returns_middle_or_mean_of_two() -> None:
    assert compute_median([3.0, 1.0, 2.0]) == 2.0
    assert compute_median([4.0, 1.0, 2.0, 3.0]) == 2.5


def test_compute_percentile_is_linear_between_values() -> None:
    hundred = [float(value) for value in range(101)]
    random.Random(7).shuffle(hundred)
    assert compute_percentile(hundred, 0.99) == 99
    assert compute_percentile([0.0, 10.0], 0.99) == pytest.approx(9.9)


@given(VALUES, st.floats(0, 1))
def test_compute_percentile_lies_within_values(values: list[float], share: float) -> None:
    assert min(values) <= compute_percentile(values, share) <= max(values)
    assert compute_percentile(values, 0) == min(values)
    assert compute_percentile(values, 1) == max(values)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_compute_percentile_refuses_no_values_or_invalid_quantile(
    values: list[float], share: float
) -> None:
    with pytest.raises(ValueError, match="needs values"):
        compute_percentile(values, share)


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        (max_ratio(1.5), 15.0, True),
        (max_ratio(1.5), 15.1, False),
        (min_ratio(0.9), 9.0, True),
        (min_ratio(0.9), 8.9, False),
        (max_above_floor(20, "ms"), 30.0, True),
        (max_above_floor(20, "ms"), 30.1, False),
        (max_value(3, "%"), 2.9, True),
        (max_value(3, "%"), 3.0, False),
    ],
)
def test_goal_is_met_up_to_its_bound(goal: Goal, measured: float, met: bool) -> None:
    measurement = Measurement("a figure", measured, "ms", 10.0, goal, "")
    assert measurement.met is met


def test_measurement_without_floor_and_goal_has_no_ratio() -> None:
    measurement = Measurement("for information", 5.0, "s", None, None, "one")
    assert (measurement.ratio, measurement.met, measurement.to_dict()["goal"]) == (None, None, None)


def test_render_table_prints_one_line_per_measurement() -> None:
    slow_drop = Measurement("drop", 20.0, "ms", 10.0, max_ratio(1.6), "200 rounds")
    idle = Measurement("idle", 1.0, "%", None, max_value(3, "%"), "60 s")
    head, line, _ = render_table([slow_drop, idle]).splitlines()
    assert head.split() == ["measured", "floor", "ratio", "goal", "samples"]
    assert re.split(" {2,}", line) == [
        "drop",
        "20.0 ms",
        "10.0 ms",
        "2.00",
        "≤ 1.6 × floor",
        "NOT MET",
        "200 rounds",
    ]


def test_format_amount_shows_three_digits() -> None:
    assert [format_amount(value, "s") for value in (0.1234, 12.34, 1234.5)] == [
        "0.12 s",
        "12.3 s",
        "1,234 s",
    ]
