"""The query of GET /data: filters, search, order, page, fields and format.  Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from api.filters import FILTERS, Filters, WrongParameter, single_values
from shared.output_csv import COLUMNS

FORMATS = ("json", "ndjson", "csv", "parquet", "html")
PAGING = ("limit", "offset")
PARAMETERS = (*FILTERS, "q", "sort", "fields", *PAGING, "format")

LONGEST_SEARCH = 200
ROWS_OF_A_PAGE, MOST_ROWS_OF_A_PAGE = 100, 1000
"""Rows on one HTML page: the default and the maximum."""

A_NUMBER = "a whole number of rows, at most nine digits"
A_SEARCH = f"words that all occur in a user's names, in any case; 1 to {LONGEST_SEARCH} characters"
AN_ORDER = f"fields separated by commas; a - before a field reverses its order: {', '.join(COLUMNS)}"
SOME_FIELDS = f"fields separated by commas: {', '.join(COLUMNS)}"
A_FORMAT = f"one of {', '.join(FORMATS)}"

_NUMBER = re.compile(r"[0-9]{1,9}")

Order = tuple[tuple[str, bool], ...]
"""Columns to sort by, the most significant one first; True means descending."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: `limit` rows after the first `offset` rows; None means no limit."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Page":
        """Parse `limit` and `offset`, or raise `WrongParameter`."""
        return cls(_number(values, "limit"), _number(values, "offset") or 0)

    @property
    def slice(self) -> slice:
        """The page as a slice of all selected rows."""
        return slice(self.offset, None if self.limit is None else self.offset + self.limit)

    def others(self, total: int) -> dict[str, int]:
        """Return the offsets of the related pages, by their link relation (RFC 8288).

        Empty if `limit` is not given or 0.
        """
        if not self.limit:
            return {}
        last = max(0, total - 1) // self.limit * self.limit
        found = {"first": 0, "last": last}
        if self.offset > 0:
            found["prev"] = max(0, min(self.offset - self.limit, last))
        if self.offset + self.limit < total:
            found["next"] = self.offset + self.limit
        return found


_NO_FILTERS, _ALL = Filters(), Page()


@dataclass(frozen=True, slots=True)
class Question:
    """A parsed query.

    Without `search` (None), `order` or `fields` (empty) that part of the query is not restricted.
    """

    filters: Filters = _NO_FILTERS
    search: str | None = None
    order: Order = ()
    fields: tuple[str, ...] = ()
    page: Page = _ALL
    format: str | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str | list[str]]) -> "Question":
        """Parse the parameters of a query string, or raise `WrongParameter`."""
        if parameters.get("format") == "html":  # a browser's form also sends the fields left blank
            parameters = {name: value for name, value in parameters.items() if value}
        values = single_values(parameters, PARAMETERS)
        return cls(
            Filters.of(values), _search(values), _order(values), _fields(values), Page.of(values), _format(values)
        )

    @property
    def rows(self) -> tuple[object, ...]:
        """The parts that select rows and fields; equal for equal queries in every process.

        It is part of the ETag, so it must not depend on the process.
        """
        filters, page = self.filters, self.page
        return (
            filters.is_image_exists,
            filters.min_age,
            filters.max_age,
            self.search,
            self.order,
            self.fields,
            page.limit,
            page.offset,
        )

    @property
    def is_whole(self) -> bool:
        """Whether the query selects all rows, with all fields, in the order of output.csv."""
        return self.rows == _WHOLE

    def for_browsers(self) -> "Question":
        """Return the same query with at most as many rows as one HTML page shows."""
        limit = ROWS_OF_A_PAGE if self.page.limit is None else min(self.page.limit, MOST_ROWS_OF_A_PAGE)
        return replace(self, page=Page(limit, self.page.offset))


_WHOLE = Question().rows


def _number(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _NUMBER.fullmatch(values[name]):
        raise WrongParameter(name, f"{values[name][:40]!r} is not a number of rows", A_NUMBER)
    return int(values[name])


def _search(values: Mapping[str, str]) -> str | None:
    text = values.get("q")
    if text is not None and (not text.strip() or len(text) > LONGEST_SEARCH):
        raise WrongParameter("q", "the search is empty or too long", A_SEARCH)
    return text


def _order(values: Mapping[str, str]) -> Order:
    order: dict[str, bool] = {}
    for name in _listed(values, "sort", AN_ORDER, lambda name: name.removeprefix("-")):
        order.setdefault(name.removeprefix("-"), name.startswith("-"))  # the first occurrence wins
    return tuple(order.items())


def _fields(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_listed(values, "fields", SOME_FIELDS, str)))


def _listed(values: Mapping[str, str], parameter: str, allowed: str, column: Callable[[str], str]) -> tuple[str, ...]:
    if parameter not in values:
        return ()
    names = tuple(values[parameter].split(","))
    unknown = next((name for name in names if column(name) not in COLUMNS), None)
    if unknown is not None:
        raise WrongParameter(parameter, f"there is no field {unknown[:40]!r}", allowed)
    return names


def _format(values: Mapping[str, str]) -> str | None:
    found = values.get("format")
    if found is not None and found not in FORMATS:
        raise WrongParameter("format", f"{found[:40]!r} is not a format", A_FORMAT)
    return found
