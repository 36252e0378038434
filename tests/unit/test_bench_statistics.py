"""Tests of `bench.figures`: percentiles, goals, and the table of results."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Figure, Goal, above_floor, amount, at_least, at_most, below, median, percentile, table

VALUES = st.lists(st.floats(0, 1e6), min_size=1)


def test_the_median_is_the_middle_value_or_lies_between_the_two_in_the_middle() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


def test_a_percentile_is_linear_between_two_values() -> None:
    hundred = [float(value) for value in range(101)]
    random.Random(7).shuffle(hundred)
    assert percentile(hundred, 0.99) == 99
    assert percentile([0.0, 10.0], 0.99) == pytest.approx(9.9)


@given(VALUES, st.floats(0, 1))
def test_a_percentile_lies_among_the_values(values: list[float], share: float) -> None:
    assert min(values) <= percentile(values, share) <= max(values)
    assert (percentile(values, 0), percentile(values, 1)) == (min(values), max(values))


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_of_nothing_and_by_another_share_there_is_no_percentile(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile(values, share)


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        (at_most(1.5), 15.0, True),
        (at_most(1.5), 15.1, False),
        (at_least(0.9), 9.0, True),
        (at_least(0.9), 8.9, False),
        (above_floor(20, "ms"), 30.0, True),
        (above_floor(20, "ms"), 30.1, False),
        (below(3, "%"), 2.9, True),
        (below(3, "%"), 3.0, False),
    ],
)
def test_a_goal_is_met_up_to_its_bound(goal: Goal, measured: float, met: bool) -> None:
    figure = Figure("a figure", measured, "ms", 10.0, goal, "")
    assert figure.met is met


def test_a_figure_without_floor_or_goal_has_neither_ratio_nor_judgement() -> None:
    figure = Figure("for information", 5.0, "s", None, None, "one")
    assert (figure.ratio, figure.met, figure.to_dict()["goal"]) == (None, None, None)


def test_the_table_has_a_line_for_each_figure_with_all_it_says() -> None:
    missed = Figure("drop", 20.0, "ms", 10.0, at_most(1.6), "200 rounds")
    head, line, _ = table([missed, Figure("idle", 1.0, "%", None, below(3, "%"), "60 s")]).splitlines()
    assert head.split() == ["measured", "floor", "ratio", "goal", "samples"]
    assert re.split(" {2,}", line) == ["drop", "20.0 ms", "10.0 ms", "2.00", "≤ 1.6 × floor", "NOT MET", "200 rounds"]


def test_an_amount_shows_three_digits_or_more() -> None:
    assert [amount(value, "s") for value in (0.1234, 12.34, 1234.5)] == ["0.12 s", "12.3 s", "1,234 s"]
