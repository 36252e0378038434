"""What may be asked of the rows: filters, a search, an order, a page of them, some fields, a format.  Pure."""

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
"""Of the page for browsers: as many as are shown unless asked otherwise, and at most."""

A_NUMBER = "a whole number of rows, at most nine digits"
A_SEARCH = f"words that all occur in a user's names, in any case; 1 to {LONGEST_SEARCH} characters"
AN_ORDER = f"fields separated by commas, each with a - before it to turn its order round: {', '.join(COLUMNS)}"
SOME_FIELDS = f"fields separated by commas: {', '.join(COLUMNS)}"
A_FORMAT = f"one of {', '.join(FORMATS)}"

_NUMBER = re.compile(r"[0-9]{1,9}")

Order = tuple[tuple[str, bool], ...]
"""Columns to sort by, the first one counting most; True: from the last to the first."""


@dataclass(frozen=True, slots=True)
class Page:
    """`limit` rows after the first `offset`; None: all of them."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Page":
        """Read single values.  Raises `WrongParameter`."""
        return cls(_number(values, "limit"), _number(values, "offset") or 0)

    @property
    def slice(self) -> slice:
        """The page as a slice of all there is."""
        return slice(self.offset, None if self.limit is None else self.offset + self.limit)

    def others(self, total: int) -> dict[str, int]:
        """The relations of RFC 8288 to other pages: relation to their offset."""
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
    """What is asked of the rows.  `search` None, `order` and `fields` empty: it does not matter."""

    filters: Filters = _NO_FILTERS
    search: str | None = None
    order: Order = ()
    fields: tuple[str, ...] = ()
    page: Page = _ALL
    format: str | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str | list[str]]) -> "Question":
        """Read a query string's parameters.  Raises `WrongParameter`."""
        if parameters.get("format") == "html":  # a form of a browser sends what was left blank, too
            parameters = {name: value for name, value in parameters.items() if value}
        values = single_values(parameters, PARAMETERS)
        return cls(
            Filters.of(values), _search(values), _order(values), _fields(values), Page.of(values), _format(values)
        )

    @property
    def rows(self) -> tuple[object, ...]:
        """What decides which rows are meant, and how much of each; the same for the same question."""
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
        """Whether all rows are asked for, as they are."""
        return self.rows == _WHOLE

    def for_browsers(self) -> "Question":
        """The same with no more rows than a page can show."""
        limit = ROWS_OF_A_PAGE if self.page.limit is None else min(self.page.limit, MOST_ROWS_OF_A_PAGE)
        return replace(self, page=Page(limit, self.page.offset))


_WHOLE = Question().rows


def _number(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _NUMBER.fullmatch(values[name]):
        raise WrongParameter(name, f"{values[name][:40]!r} is no number of rows", A_NUMBER)
    return int(values[name])


def _search(values: Mapping[str, str]) -> str | None:
    text = values.get("q")
    if text is not None and (not text.strip() or len(text) > LONGEST_SEARCH):
        raise WrongParameter("q", "nothing to look for, or too much", A_SEARCH)
    return text


def _order(values: Mapping[str, str]) -> Order:
    order: dict[str, bool] = {}
    for name in _listed(values, "sort", AN_ORDER, lambda name: name.removeprefix("-")):
        order.setdefault(name.removeprefix("-"), name.startswith("-"))  # a field decides once
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
        raise WrongParameter("format", f"{found[:40]!r} is no format", A_FORMAT)
    return found
