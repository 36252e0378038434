"""The query of GET /data: filters, search, order, page, fields and format.  Pure.

GET /stats has the filters and the search of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from api.query.filters import FILTER_PARAMETERS, NO_FILTERS, Filters
from api.query.parameters import InvalidParameter, parse_single_values
from shared.formats.output_csv import OUTPUT_COLUMNS

FORMATS = ("json", "ndjson", "csv", "parquet", "html")
PAGING_PARAMETERS = ("limit", "offset")
SELECTING_PARAMETERS = (*FILTER_PARAMETERS, "q")
ROW_PARAMETERS = (*SELECTING_PARAMETERS, "sort", "fields", *PAGING_PARAMETERS, "format")

MAX_SEARCH_LENGTH = 200
"""Characters of the parameter `q`."""
MAX_SEARCH_WORDS = 10
"""Words of the parameter `q`: each of them is searched in all texts of a row."""
DEFAULT_HTML_ROWS = 100
"""Rows on one HTML page if the client gives no `limit`."""
MAX_HTML_ROWS = 1000
"""Maximum rows on one HTML page, even if the client's `limit` is larger."""

ALLOWED_ROW_COUNT = "a whole number of rows, at most nine digits"
ALLOWED_SEARCH = (
    f"1 to {MAX_SEARCH_WORDS} words that all occur in a user's ID or names, in any case; "
    f"at most {MAX_SEARCH_LENGTH} characters"
)
_COLUMN_LIST = ", ".join(OUTPUT_COLUMNS)
ALLOWED_SORT = f"fields separated by commas; a - before a field reverses its order: {_COLUMN_LIST}"
ALLOWED_FIELDS = f"fields separated by commas: {_COLUMN_LIST}"
ALLOWED_FORMAT = f"one of {', '.join(FORMATS)}"

_ROW_COUNT_PATTERN = re.compile(r"[0-9]{1,9}")

SortOrder = tuple[tuple[str, bool], ...]
"""Columns to sort by, the most significant one first; True means descending."""


@dataclass(frozen=True, slots=True)
class Paging:
    """A page: `limit` rows after the first `offset` rows; None means no limit."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> "Paging":
        """Parse `limit` and `offset`, or raise `InvalidParameter`."""
        return cls(_parse_row_count(values, "limit"), _parse_row_count(values, "offset") or 0)

    @property
    def as_slice(self) -> slice:
        """The page as a slice of all selected rows."""
        return slice(self.offset, None if self.limit is None else self.offset + self.limit)

    def list_related_offsets(self, total: int) -> dict[str, int]:
        """Return the offsets of the related pages, by their link relation (RFC 8288).

        Empty if `limit` is not given or 0.
        """
        if not self.limit:
            return {}
        # If no row matches, the first page is also the last one.
        last = max(0, total - 1) // self.limit * self.limit
        offsets = {"first": 0, "last": last}
        # From an offset beyond the end, the previous page is the last one that has rows.
        if self.offset > 0:
            offsets["prev"] = max(0, min(self.offset - self.limit, last))
        if self.offset + self.limit < total:
            offsets["next"] = self.offset + self.limit
        return offsets


_NO_PAGING = Paging()


@dataclass(frozen=True, slots=True)
class RowQuery:
    """A parsed query.

    Without `search` (None), `sort` or `fields` (empty) that part of the query is not restricted.
    """

    filters: Filters = NO_FILTERS
    search: str | None = None
    sort: SortOrder = ()
    fields: tuple[str, ...] = ()
    paging: Paging = _NO_PAGING
    format: str | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str | list[str]]) -> "RowQuery":
        """Parse the parameters of a query string, or raise `InvalidParameter`."""
        if parameters.get("format") == "html":  # a browser's form also sends the fields left blank
            parameters = {name: value for name, value in parameters.items() if value}
        values = parse_single_values(parameters, ROW_PARAMETERS)
        return cls(
            Filters.from_values(values),
            _parse_search(values),
            _parse_sort(values),
            _parse_fields(values),
            Paging.from_values(values),
            _parse_format(values),
        )

    @classmethod
    def parse_selection(cls, parameters: Mapping[str, str | list[str]]) -> "RowQuery":
        """Parse the filters and the search, or raise `InvalidParameter`."""
        values = parse_single_values(parameters, SELECTING_PARAMETERS)
        return cls(Filters.from_values(values), _parse_search(values))

    @property
    def selection_key(self) -> tuple[object, ...]:
        """The parts that select rows and fields; equal for equal queries in every process.

        It is part of the ETag, so it must not depend on the process.
        """
        paging = self.paging
        return (
            self.filters,
            self.search,
            self.sort,
            self.fields,
            paging.limit,
            paging.offset,
        )

    @property
    def is_unrestricted(self) -> bool:
        """Whether the query selects all rows, with all fields, in the order of output.csv."""
        return self.selection_key == _UNRESTRICTED_KEY

    def limit_for_html(self) -> "RowQuery":
        """Return the same query with at most as many rows as one HTML page shows."""
        limit = DEFAULT_HTML_ROWS
        if self.paging.limit is not None:
            limit = min(self.paging.limit, MAX_HTML_ROWS)
        return replace(self, paging=Paging(limit, self.paging.offset))


_UNRESTRICTED_KEY = RowQuery().selection_key


def _parse_row_count(values: Mapping[str, str], name: str) -> int | None:
    if name not in values:
        return None
    if not _ROW_COUNT_PATTERN.fullmatch(values[name]):
        raise InvalidParameter(
            name, f"{values[name][:40]!r} is not a number of rows", ALLOWED_ROW_COUNT
        )
    return int(values[name])


def _parse_search(values: Mapping[str, str]) -> str | None:
    text = values.get("q")
    if text is None:
        return None
    if len(text) > MAX_SEARCH_LENGTH or not 1 <= len(text.split()) <= MAX_SEARCH_WORDS:
        raise InvalidParameter("q", "the search is empty or too long", ALLOWED_SEARCH)
    return text


def _parse_sort(values: Mapping[str, str]) -> SortOrder:
    order: dict[str, bool] = {}
    names = _parse_field_list(values, "sort", ALLOWED_SORT, prefix="-")
    for name in names:
        order.setdefault(name.removeprefix("-"), name.startswith("-"))  # the first occurrence wins
    return tuple(order.items())


def _parse_fields(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_parse_field_list(values, "fields", ALLOWED_FIELDS)))


def _parse_field_list(
    values: Mapping[str, str], parameter: str, allowed_text: str, prefix: str = ""
) -> tuple[str, ...]:
    """Return the names in a parameter in their order, with prefix and duplicates.

    `prefix` may precede a name. `allowed_text` describes the valid values in the error message.
    Raises `InvalidParameter`.
    """
    if parameter not in values:
        return ()
    names = tuple(values[parameter].split(","))
    for name in names:
        if name.removeprefix(prefix) not in OUTPUT_COLUMNS:
            raise InvalidParameter(parameter, f"there is no field {name[:40]!r}", allowed_text)
    return names


def _parse_format(values: Mapping[str, str]) -> str | None:
    name = values.get("format")
    if name is not None and name not in FORMATS:
        raise InvalidParameter("format", f"{name[:40]!r} is not a format", ALLOWED_FORMAT)
    return name
