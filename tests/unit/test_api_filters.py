"""Ages and filters: parsing, limits and calendar arithmetic."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.filters import Filters, WrongParameter, ages, birthdays, single_values

EPOCH = datetime(1970, 1, 1)
dates = st.dates(date(1, 1, 1), date(9999, 12, 31))
times = st.integers(0, 86_399_999)


def milliseconds(day: date, time: int = 0) -> int:
    return (datetime(day.year, day.month, day.day) - EPOCH) // timedelta(milliseconds=1) + time


def age(born: date, today: date) -> int:
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


@given(dates, times, dates)
@example(date(2000, 2, 29), 0, date(2018, 2, 28))
@example(date(2000, 2, 29), 0, date(2018, 3, 1))
@example(date(1, 1, 1), 0, date(9999, 12, 31))
@example(date(9999, 12, 31), 86_399_999, date(1, 1, 1))
@example(date(1969, 12, 31), 86_399_999, date(1970, 1, 1))
def test_an_age_is_the_number_of_birthdays_by_the_calendar(born: date, time: int, today: date) -> None:
    birthday = birthdays(np.array([milliseconds(born, time)]))
    assert ages(birthday, today).tolist() == [age(born, today)]


@given(st.lists(dates, max_size=20), dates, st.none() | st.integers(-50, 120), st.none() | st.integers(-50, 120))
def test_age_filters_include_both_ends(born: list[date], today: date, low: int | None, high: int | None) -> None:
    birthday = birthdays(np.array([milliseconds(day) for day in born], np.int64))
    mask = Filters(min_age=low, max_age=high).mask(np.zeros(len(born), np.bool_), birthday, today)
    expected = [(low is None or age(day, today) >= low) and (high is None or age(day, today) <= high) for day in born]
    assert mask.tolist() == expected


def test_who_was_born_on_29_february_is_a_year_older_on_1_march() -> None:
    birthday = birthdays(np.array([milliseconds(date(2004, 2, 29))]))
    assert ages(birthday, date(2022, 2, 28)).tolist() == [17]
    assert ages(birthday, date(2022, 3, 1)).tolist() == [18]
    assert ages(birthday, date(2024, 2, 29)).tolist() == [20]


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1"])
def test_true_is_understood_in_any_case_and_as_1(text: str) -> None:
    assert Filters.parse({"is_image_exists": text}) == Filters(is_image_exists=True)


@pytest.mark.parametrize("text", ["False", "false", "fAlSe", "0"])
def test_false_is_understood_in_any_case_and_as_0(text: str) -> None:
    assert Filters.parse({"is_image_exists": text}) == Filters(is_image_exists=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is_image_exists", "yes"),
        ("is_image_exists", ""),
        ("is_image_exists", " true"),
        ("min_age", ""),
        ("min_age", "x"),
        ("min_age", "1.5"),
        ("min_age", "1e3"),
        ("min_age", "٣"),
        ("max_age", "123456"),
        ("max_age", "--1"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(WrongParameter) as refusal:
        Filters.parse({name: text})
    assert refusal.value.name == name
    assert ("true or false" in refusal.value.allowed) == (name == "is_image_exists")


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WrongParameter, match="minage") as refusal:
        Filters.parse({"minage": "3"})
    assert "is_image_exists, min_age, max_age" in refusal.value.allowed


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(WrongParameter, match="more than once"):
        single_values({"min_age": ["1", "2"]}, ("min_age",))


def test_a_negative_age_means_those_not_born_yet() -> None:
    today = datetime.now(UTC).date()
    birthday = birthdays(np.array([milliseconds(today + timedelta(days=3)), milliseconds(today)]))
    filters = Filters.parse({"max_age": "-1"})
    assert filters.mask(np.zeros(2, np.bool_), birthday, today).tolist() == [True, False]
