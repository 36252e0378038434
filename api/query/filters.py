"""The filters of `/data` and `/stats`: parse the query string and select rows. Pure.

Ages are full calendar years in UTC. A person born on 29 February becomes a year older on 1 March in
years without that day. A birth date is encoded as `birthday`, year * 512 + month * 32 + day. So "at
least 18 years old on this day" is a comparison with the code of the same day 18 years earlier, even
if that day does not exist.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from api.query.parameters import InvalidParameter, parse_boolean
from shared.formats.records import COLUMNS

# At most five digits, so that the comparisons in `Filters.build_mask` fit into int32.
_AGE_PATTERN = re.compile(r"-?[0-9]{1,5}")
# Above the largest month * 32 + day, so that comparing two codes compares two dates.
_YEAR_STEP = 512

FILTER_PARAMETERS = tuple(each.name for column in COLUMNS for each in column.filters)
ALLOWED_AGE = "a whole number of years, at most five digits"


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a request; None means no filter. Ages are in full years, limits included."""

    is_image_exists: bool | None = None
    min_age: int | None = None
    max_age: int | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> "Filters":
        """Return the filters in single values, ignoring other parameters.

        Raises `InvalidParameter`.
        """
        return cls(
            parse_boolean(values, "is_image_exists"),
            _parse_age(values, "min_age"),
            _parse_age(values, "max_age"),
        )

    @property
    def depends_on_date(self) -> bool:
        """Whether the selection depends on the date."""
        return self.min_age is not None or self.max_age is not None

    @property
    def is_active(self) -> bool:
        """Whether any filter is set."""
        return self != NO_FILTERS

    def to_dict(self) -> dict[str, bool | int]:
        """Return the filters that are set, by parameter name."""
        values = ((name, getattr(self, name)) for name in _NAMES)
        return {name: value for name, value in values if value is not None}

    def build_mask(
        self, has_image: NDArray[np.bool_], birthday: NDArray[np.int32], today: date
    ) -> NDArray[np.bool_]:
        """Return which rows match on this date, as one boolean per row.

        `has_image` and `birthday` have one entry per row. `birthday` is the result of
        `encode_birthdays`.
        """
        if self.is_image_exists is not None:
            mask: NDArray[np.bool_] = has_image == self.is_image_exists
        else:
            mask = np.ones(len(birthday), np.bool_)
        # At least this old: born on this day that many years ago, or earlier.
        if self.min_age is not None:
            mask &= birthday <= _encode_date(today) - _YEAR_STEP * self.min_age
        # At most this old: born after the day on which someone one year older was born.
        if self.max_age is not None:
            mask &= birthday > _encode_date(today) - _YEAR_STEP * (self.max_age + 1)
        return mask


NO_FILTERS = Filters()
_NAMES = tuple(each.name for each in fields(Filters))


def encode_birthdays(birthts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Convert birth dates in Unix milliseconds (UTC) to `year * 512 + month * 32 + day`."""
    days = birthts.astype("datetime64[ms]").astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    since_1970 = months.astype(np.int64)
    # Floor division and remainder are also right for the negative months before 1970.
    day = (days - months).astype(np.int64) + 1
    birthday: NDArray[np.int32] = (
        (1970 + since_1970 // 12) * _YEAR_STEP + (since_1970 % 12 + 1) * 32 + day
    ).astype(np.int32)
    return birthday


def compute_ages(birthday: NDArray[np.int32], today: date) -> NDArray[np.int32]:
    """Return the ages on this date in full years, negative for birth dates after it."""
    full_years: NDArray[np.int32] = (_encode_date(today) - birthday) // _YEAR_STEP
    return full_years


def _encode_date(day: date) -> int:
    return day.year * _YEAR_STEP + day.month * 32 + day.day


def _parse_age(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _AGE_PATTERN.fullmatch(values[name]):
        raise InvalidParameter(
            name, f"{values[name][:40]!r} is not a whole number of years", ALLOWED_AGE
        )
    return int(values[name])


DAY_S = 86_400


def compute_utc_date(timestamp: float) -> date:
    """Return the UTC date of a time in Unix seconds."""
    return datetime.fromtimestamp(timestamp, UTC).date()
