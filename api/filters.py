"""The filters of /data and /stats: what a query string may say, and which rows it means.  Pure.

Ages are full years by the calendar in UTC: somebody born on 29 February is a year older on 1 March where there is no
29 February.  A birth date is held as `birthday`, year * 512 + month * 32 + day, so that "at least 18 years old on this
day" is a comparison with the same figure of a day 18 years ago, for any year.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

_AGE = re.compile(r"-?[0-9]{1,5}")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_YEAR = 512

FILTERS = ("is_image_exists", "min_age", "max_age")
AN_AGE = "a whole number of years, at most five digits"
A_TRUTH = "true or false in any case, 1 or 0"


class WrongParameter(ValueError):
    """A query parameter that is unknown, given twice, or says what it may not; `allowed` is for the one who asked."""

    def __init__(self, name: str, found: str, allowed: str) -> None:
        super().__init__(f"{name}: {found}")
        self.name, self.found, self.allowed = name, found, allowed


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows are asked for; None where it does not matter.  Ages are in full years, both ends included."""

    is_image_exists: bool | None = None
    min_age: int | None = None
    max_age: int | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str | list[str]]) -> "Filters":
        """Read a query string's parameters.  Raises `WrongParameter`."""
        return cls.of(single_values(parameters, FILTERS))

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Filters":
        """Read single values, those of other parameters left aside.  Raises `WrongParameter`."""
        return cls(_truth(values, "is_image_exists"), _age(values, "min_age"), _age(values, "max_age"))

    @property
    def by_age(self) -> bool:
        """Whether the answer changes with the date."""
        return self.min_age is not None or self.max_age is not None

    @property
    def are_given(self) -> bool:
        """Whether some rows may not pass."""
        return self.by_age or self.is_image_exists is not None

    def given(self) -> dict[str, bool | int]:
        """The filters that are set."""
        every = (
            ("is_image_exists", self.is_image_exists),
            ("min_age", self.min_age),
            ("max_age", self.max_age),
        )
        return {name: value for name, value in every if value is not None}

    def mask(self, has_image: NDArray[np.bool_], birthday: NDArray[np.int32], today: date) -> NDArray[np.bool_]:
        """Which rows pass, on this date."""
        if self.is_image_exists is not None:
            mask: NDArray[np.bool_] = has_image == self.is_image_exists
        else:
            mask = np.ones(len(birthday), np.bool_)
        if self.min_age is not None:
            mask &= birthday <= _day(today) - _YEAR * self.min_age
        if self.max_age is not None:
            mask &= birthday > _day(today) - _YEAR * (self.max_age + 1)
        return mask


def single_values(parameters: Mapping[str, str | list[str]], known: tuple[str, ...]) -> dict[str, str]:
    """The parameters, each given once and none but the known ones.  Raises `WrongParameter`."""
    values = {}
    for name, value in parameters.items():
        if name not in known:
            raise WrongParameter(name, "there is no such parameter", f"the parameters {', '.join(known) or '(none)'}")
        if not isinstance(value, str):
            raise WrongParameter(name, "given more than once", "one value")
        values[name] = value
    return values


def birthdays(birthts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Birth dates, in milliseconds since 1970 UTC, as `year * 512 + month * 32 + day`."""
    days = birthts.astype("datetime64[ms]").astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    since_1970 = months.astype(np.int64)
    day = (days - months).astype(np.int64) + 1
    birthday: NDArray[np.int32] = ((1970 + since_1970 // 12) * _YEAR + (since_1970 % 12 + 1) * 32 + day).astype(
        np.int32
    )
    return birthday


def ages(birthday: NDArray[np.int32], today: date) -> NDArray[np.int32]:
    """Full years on this date; below 0 for somebody who is not born yet."""
    full_years: NDArray[np.int32] = (_day(today) - birthday) // _YEAR
    return full_years


def _day(day: date) -> int:
    return day.year * _YEAR + day.month * 32 + day.day


def _truth(values: Mapping[str, str], name: str) -> bool | None:
    if name not in values:
        return None
    try:
        return _TRUTH[values[name].lower()]
    except KeyError:
        raise WrongParameter(name, f"{values[name][:40]!r} is neither true nor false", A_TRUTH) from None


def _age(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _AGE.fullmatch(values[name]):
        raise WrongParameter(name, f"{values[name][:40]!r} is not a whole number of years", AN_AGE)
    return int(values[name])
