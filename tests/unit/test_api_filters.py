"""Ages and filters: parsing, limits and calendar arithmetic."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.query.filters import Filters, compute_ages, encode_birthdays
from api.query.parameters import InvalidParameter, parse_single_values
from api.query.row_query import SELECTING_PARAMETERS, RowQuery
from shared.formats.records import COLUMNS, Filter
from tests.unit.test_api_routes import Service

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
def test_compute_ages_counts_calendar_birthdays(born: date, time: int, today: date) -> None:
    birthday = encode_birthdays(np.array([milliseconds(born, time)]))
    assert compute_ages(birthday, today).tolist() == [age(born, today)]


@given(
    st.lists(dates, max_size=20),
    dates,
    st.none() | st.integers(-50, 120),
    st.none() | st.integers(-50, 120),
)
def test_filters_age_bounds_are_inclusive(
    born: list[date], today: date, low: int | None, high: int | None
) -> None:
    birthday = encode_birthdays(np.array([milliseconds(day) for day in born], np.int64))
    mask = Filters(min_age=low, max_age=high).build_mask(
        np.zeros(len(born), np.bool_), birthday, today
    )
    expected = [
        (low is None or age(day, today) >= low) and (high is None or age(day, today) <= high)
        for day in born
    ]
    assert mask.tolist() == expected


def test_compute_ages_of_29_february_change_on_1_march() -> None:
    birthday = encode_birthdays(np.array([milliseconds(date(2004, 2, 29))]))
    assert compute_ages(birthday, date(2022, 2, 28)).tolist() == [17]
    assert compute_ages(birthday, date(2022, 3, 1)).tolist() == [18]
    assert compute_ages(birthday, date(2024, 2, 29)).tolist() == [20]


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1"])
def test_filters_parse_true_values(text: str) -> None:
    assert Filters.from_values({"is_image_exists": text}) == Filters(is_image_exists=True)


@pytest.mark.parametrize("text", ["False", "false", "fAlSe", "0"])
def test_filters_parse_false_values(text: str) -> None:
    assert Filters.from_values({"is_image_exists": text}) == Filters(is_image_exists=False)


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
def test_filters_name_invalid_value_and_allowed_ones(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        Filters.from_values({name: text})
    assert refusal.value.name == name
    assert ("true or false" in refusal.value.allowed) == (name == "is_image_exists")


@pytest.mark.parametrize("column_filter", [each for column in COLUMNS for each in column.filters])
def test_each_filter_of_a_column_selects_rows(column_filter: Filter) -> None:
    parameters = {column_filter.name: column_filter.example}
    query = RowQuery.parse_selection(parameters)
    assert query.filters.is_active
    assert not query.is_unrestricted
    assert list(query.filters.to_dict()) == [column_filter.name]
    assert repr(query.selection_key) != repr(RowQuery().selection_key)
    # One of two people on each side of any limit: a newborn without an image, and an old person.
    today = datetime.now(UTC).date()
    birthday = encode_birthdays(np.array([milliseconds(today), milliseconds(date(1900, 1, 1))]))
    mask = query.filters.build_mask(np.array([False, True]), birthday, today)
    assert mask.sum() == 1


def test_row_query_selection_refuses_unknown_parameter() -> None:
    for name in ("minage", "sort", "limit"):
        with pytest.raises(InvalidParameter, match=name) as refusal:
            RowQuery.parse_selection({name: "3"})
        assert ", ".join(SELECTING_PARAMETERS) in refusal.value.allowed


@pytest.mark.parametrize("path", ["/data", "/stats"])
def test_query_string_that_is_not_utf8_is_refused(path: str) -> None:
    service = Service()
    for query, name in (("q=J%F6rg", "q"), ("q=J%EF%BF%BDo%FF", "q"), ("min_age=%FF", "min_age")):
        refusal = service.get(f"{path}?{query}")
        assert (refusal.status_code, refusal.json["parameter"]) == (400, name)
        assert "not UTF-8" in refusal.json["detail"]
    assert service.get(f"{path}?q=J%EF%BF%BDo").status_code == 200
    service.redis.close()


def test_parse_single_values_refuses_repeated_parameter() -> None:
    with pytest.raises(InvalidParameter, match="more than once"):
        parse_single_values({"min_age": ["1", "2"]}, ("min_age",))


def test_filters_negative_age_selects_unborn() -> None:
    today = datetime.now(UTC).date()
    birthday = encode_birthdays(
        np.array([milliseconds(today + timedelta(days=3)), milliseconds(today)])
    )
    filters = Filters.from_values({"max_age": "-1"})
    assert filters.build_mask(np.zeros(2, np.bool_), birthday, today).tolist() == [True, False]
