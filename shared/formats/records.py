"""Rowdrop's value types: the result of reading one user's files, its row, and its reject. Pure.

`COLUMNS` is the table of columns: what the API says about a row is derived from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RULES_VERSION = "3"
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


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter of `/data` and `/stats` that selects rows by a column. `example` is a value."""

    name: str
    kind: Literal["boolean", "age"]
    example: str


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number that `/stats` computes from a column; null if there is no row."""

    name: str
    type: Literal["integer", "number"]
    description: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of output.csv, and a field of a row in the API.

    `constraints` are keywords of JSON Schema. `is_nullable`: an empty value is null in JSON.
    """

    name: str
    type: Literal["string", "integer"]
    description: str
    example: str | int
    is_nullable: bool = False
    constraints: Mapping[str, int] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()
    statistics: tuple[Statistic, ...] = ()


COLUMNS = (
    Column(
        "user_id",
        "string",
        "the file's name without its extension",
        example="0001",
        constraints={"minLength": 1},
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
        filters=(Filter("min_age", "age", "18"), Filter("max_age", "age", "65")),
        statistics=(
            Statistic("average_age", "number", "mean of full years, two decimals"),
            Statistic(
                "average_birthts",
                "integer",
                "mean of the birth dates in milliseconds since 1970 UTC",
            ),
        ),
    ),
    Column(
        "img_path",
        "string",
        "bucket and key of the image; null without one",
        example="src-data/0001.png",
        is_nullable=True,
        filters=(Filter("is_image_exists", "boolean", "true"),),
    ),
)
"""The columns of output.csv in their order: the fields of `Row`. The first one is the key."""


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
            case [reason, line]:  # written by an earlier release
                return cls(user_id, InvalidCsv(version, reason, line, OLDEST_RULES_VERSION), *image)
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
