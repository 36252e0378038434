"""Rowdrop's value types: the result of reading one user's files, its row, and its reject. Pure.

`COLUMNS` is the table of columns: what the API says about a row is derived from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RULES_VERSION = "4"
"""Version of the cleaning rules and of the reasons, stored with rejects and in the manifest.

Bumping it invalidates all cached results: the next sweep reads every file again.
"""
OLDEST_RULES_VERSION = "1"
"""The version of what was stored without one."""

QUARANTINE_REASON = (
    "reading it killed or stalled its worker again and again; "
    "it is read anew when the file changes, and once more by each sweep"
)
"""The reason of a quarantined file's reject, which is made without reading the file."""
PREVIOUS_VERSION_KEPT = "; the version before it stays in use"
"""The end of the reject reason of a bundle while its previous version is still visible."""

UNREADABLE_REASON = "the object store cannot read it"
"""The beginning of the reason of a reject for an object that the server cannot read."""


@dataclass(frozen=True, slots=True)
class Person:
    """The fields of one valid user CSV.

    Names are trimmed and otherwise unchanged. `birthts` is the birth date in ms since 1970 UTC.
    """

    first_name: str
    last_name: str
    birthts: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of output.csv. `img_path` is `<bucket>/<key>`, or empty if there is no image."""

    user_id: str
    first_name: str
    last_name: str
    birthts: int
    img_path: str


Display = Literal["text", "date", "image"]
"""How people see a value: as it is, as the date of its milliseconds since 1970 UTC, as an image."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter of `/data` and `/stats` that selects rows by a column. `example` is a value.

    `title` is for people, and so are `choices`: what true and false mean if it is a boolean.
    """

    name: str
    kind: Literal["boolean", "age"]
    example: str
    title: str = ""
    choices: tuple[str, str] = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the page counts rows in intervals, by two filters that take whole numbers.

    `min_filter` and `max_filter` are their names; both limits are included. The intervals are
    `step` long and go from `start` to below `end`. One more on each side has the rest.
    """

    title: str
    min_filter: str
    max_filter: str
    start: int
    end: int
    step: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number that `/stats` computes from a column; null if there is no row."""

    name: str
    type: Literal["integer", "number"]
    description: str
    title: str = ""
    display: Display = "text"


@dataclass(frozen=True, slots=True)
class UnlikelyRange:
    """Numbers from `first` to `last` that are valid and probably wrong.

    Multiples of `except_multiples_of` are excepted. `reason` says what such a number may be, and
    what to do. `{date}` in it stands for the date of the number, in ms since 1970 UTC.
    """

    first: int
    last: int
    reason: str
    except_multiples_of: int | None = None


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Texts that differ only by Unicode normalization to this form, so they look the same."""

    form: Literal["NFC"]
    reason: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of output.csv, and a field of a row in the API.

    `constraints` are keywords of JSON Schema. `is_nullable`: an empty value is null in JSON.
    `suspicions`: which values are valid and probably wrong; the first one that applies counts.
    `title` is the column's name for people; by default it is made from `name`.
    """

    name: str
    type: Literal["string", "integer"]
    description: str
    example: str | int
    is_nullable: bool = False
    constraints: Mapping[str, int] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()
    histogram: Histogram | None = None
    statistics: tuple[Statistic, ...] = ()
    title: str = ""
    display: Display = "text"
    suspicions: tuple[UnlikelyRange | LookAlikes, ...] = ()


def get_title(part: Column | Filter | Statistic) -> str:
    """Return the title of a column, filter or statistic; without one, its name in words."""
    return part.title or part.name.replace("_", " ").capitalize()


# The oldest verified age is 122 years (Jeanne Calment, 1875 to 1997), so a person who is alive was
# born from 1900 on. The end leaves some years for the use of a release.
_FIRST_BIRTH_YEAR = 1900
_LAST_BIRTH_YEAR = 2034
_FIRST_BIRTH_S = -2_208_988_800
_LAST_BIRTH_S = 2_051_222_399
# Excel and LibreOffice count the days since 1899-12-30, R and pandas those since 1970-01-01: the
# first number is 1900-01-01 in the second count, the last one 2034-12-31 in the first.
_FIRST_BIRTH_DAY = -25_567
_LAST_BIRTH_DAY = 49_309
# As milliseconds, all these numbers are dates within 26 days of 1970-01-01. A person who was born
# then has midnight of a time zone as birth date. The offsets of time zones (tz database) have been
# whole quarters of an hour since 1972. One of 125 midnights in seconds is one as well, and is
# missed.
_QUARTER_HOUR_MS = 900_000
# No person who is alive was born outside of the years 1800 to 2035. A valid date before 1800 or
# after 2100 may be one from 1968 to 1978 in microseconds, or a limit of a data type (9999-12-31).
_YEAR_1_MS = -62_135_596_800_000
_YEAR_1800_MS = -5_364_662_400_000
_YEAR_2036_MS = 2_082_758_400_000
_YEAR_2101_MS = 4_133_980_800_000
_YEAR_9999_END_MS = 253_402_300_799_999
_REPLACE_OR_KEEP = "If so, replace the file by one with milliseconds since 1970; if not, keep it"
_MICROSECONDS = (
    "born {date}: are these microseconds, or does the date stand for an unknown one? "
    + _REPLACE_OR_KEEP
)
_UNLIKELY_BIRTHS = (
    UnlikelyRange(
        _FIRST_BIRTH_YEAR,
        _LAST_BIRTH_YEAR,
        f"born {{date}}: is this only a year? {_REPLACE_OR_KEEP}",
    ),
    UnlikelyRange(
        _FIRST_BIRTH_DAY,
        _LAST_BIRTH_DAY,
        f"born {{date}}: are these days, as spreadsheets count them? {_REPLACE_OR_KEEP}",
        _QUARTER_HOUR_MS,
    ),
    UnlikelyRange(
        _FIRST_BIRTH_YEAR * 10_000 + 101,
        _LAST_BIRTH_YEAR * 10_000 + 1231,
        f"born {{date}}: is this a date such as 19991231? {_REPLACE_OR_KEEP}",
        _QUARTER_HOUR_MS,
    ),
    UnlikelyRange(
        _FIRST_BIRTH_S,
        _LAST_BIRTH_S,
        f"born {{date}}: are these seconds? {_REPLACE_OR_KEEP}",
        _QUARTER_HOUR_MS,
    ),
    UnlikelyRange(
        _YEAR_2036_MS,
        _YEAR_2101_MS - 1,
        f"born {{date}}: is this year wrong? {_REPLACE_OR_KEEP}",
    ),
    UnlikelyRange(_YEAR_2101_MS, _YEAR_9999_END_MS, _MICROSECONDS),
    UnlikelyRange(_YEAR_1_MS, _YEAR_1800_MS - 1, _MICROSECONDS),
)

COLUMNS = (
    Column(
        "user_id",
        "string",
        "the file's name without its extension",
        example="0001",
        constraints={"minLength": 1},
        title="User",
        suspicions=(
            LookAlikes(
                "NFC",
                "looks the same as another user ID (different Unicode form); "
                "rename one, or keep both if these are two users",
            ),
        ),
    ),
    Column("first_name", "string", "the first name, trimmed", example="Ivan"),
    Column("last_name", "string", "the last name, trimmed", example="Ivanov"),
    Column(
        "birthts",
        "integer",
        "birth date in milliseconds since 1970 UTC",
        example=946_674_000_000,
        # At most 15 digits, as in the files.
        constraints={"minimum": 1 - 10**15, "maximum": 10**15 - 1},
        filters=(
            Filter("min_age", "age", "18", "From age"),
            Filter("max_age", "age", "65", "To age"),
        ),
        histogram=Histogram("Age", "min_age", "max_age", start=0, end=100, step=10),
        statistics=(
            Statistic("average_age", "number", "mean of full years, two decimals"),
            Statistic(
                "average_birthts",
                "integer",
                "mean of the birth dates in milliseconds since 1970 UTC",
                "Average birth date",
                "date",
            ),
        ),
        title="Born",
        display="date",
        suspicions=_UNLIKELY_BIRTHS,
    ),
    Column(
        "img_path",
        "string",
        "bucket and key of the image; null without one",
        example="src-data/0001.png",
        is_nullable=True,
        filters=(Filter("is_image_exists", "boolean", "true", "Image", ("with", "without")),),
        title="Image",
        display="image",
    ),
)
"""The columns of output.csv in their order: the fields of `Row`. The first one is the key."""

SEARCHED_COLUMNS = tuple(
    column.name for column in COLUMNS if column.type == "string" and column.display == "text"
)
"""The columns that a search looks through: the key and the other texts."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One line of rejects.csv: a file that is not valid, with the reason.

    `line` is 1-based, or None if the reason concerns the whole file. `since` is the object's
    LastModified in whole seconds since 1970 UTC. `etag` (without quotes) and `rules` identify the
    bytes and the version of the cleaning rules that were applied.
    """

    key: str
    user_id: str
    reason: str
    line: int | None
    since: int
    etag: str
    rules: str = RULES_VERSION

    @property
    def keeps_bundle_version(self) -> bool:
        """Whether this is a bundle, and the version before it is still visible."""
        return self.reason.endswith(PREVIOUS_VERSION_KEPT)


@dataclass(frozen=True, slots=True)
class CsvVersion:
    """Identifies the bytes of a CSV: its source, ETag without quotes, and LastModified.

    `source` is a key, or a member of a bundle. `last_modified` is in whole seconds since 1970 UTC.
    """

    source: str
    etag: str
    last_modified: int


@dataclass(frozen=True, slots=True)
class ValidCsv:
    """A valid CSV of a user."""

    version: CsvVersion
    person: Person


@dataclass(frozen=True, slots=True)
class InvalidCsv:
    """An invalid CSV of a user. `reason` is shown to the person who dropped the file.

    `rules` is the version of the rules by which it was read.
    """

    version: CsvVersion
    reason: str
    line: int | None
    rules: str = RULES_VERSION


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of reading a user's files once.

    `csv`: None if the user has no CSV. `image`: the image's key, or None. `image_source` is empty
    for an image in the source bucket. Otherwise `image` is a copy in the output bucket, and
    `image_source` is its source: a key of the source bucket, or a member of a bundle.
    `superseded_copies` are keys of image copies that earlier reads made, and that possibly no row
    ever named.
    """

    user_id: str
    csv: ValidCsv | InvalidCsv | None
    image: str | None
    image_source: str = ""
    superseded_copies: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Encode the result as it is stored in Redis until it is published. See `from_json`."""
        match self.csv:
            case ValidCsv(version, person):
                csv_fields: list[Any] | None = [
                    *_list_version_fields(version),
                    person.first_name,
                    person.last_name,
                    person.birthts,
                ]
            case InvalidCsv(version, reason, line, rules):
                csv_fields = [*_list_version_fields(version), [reason, line, rules]]
            case None:
                csv_fields = None
        image: list[Any] = [self.image]
        # Left out when empty, which is the usual case, to save memory in Redis.
        if self.image_source or self.superseded_copies:
            image += [self.image_source, self.superseded_copies]
        return json.dumps([csv_fields, *image], ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, user_id: str, text: str) -> "ReadResult":
        """Decode the output of `to_json`."""
        csv_fields, *image_fields = json.loads(text)
        # Image source and superseded copies are missing if both are empty.
        image = (*image_fields[:2], *map(tuple, image_fields[2:]))
        if csv_fields is None:
            return cls(user_id, None, *image)
        version = CsvVersion(*csv_fields[:3])
        match csv_fields[3:]:
            case [[*reject]]:
                return cls(user_id, InvalidCsv(version, *reject), *image)
            case person:
                return cls(user_id, ValidCsv(version, Person(*person)), *image)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The names of the two buckets."""

    source: str
    output: str

    def img_path(self, image: str | None, image_source: str) -> str:
        """Return the `img_path` of an image in output.csv; the arguments are as in `ReadResult`."""
        if not image:
            return ""
        bucket = self.output if image_source else self.source
        return f"{bucket}/{image}"


def _list_version_fields(version: CsvVersion) -> tuple[str, str, int]:
    return version.source, version.etag, version.last_modified


CsvResult = ValidCsv | InvalidCsv | None
