"""The nouns of Rowdrop: what one user's files say, the row made of them, and why a file made none.  Pure."""

import json
from dataclasses import dataclass
from typing import Any

RULES_VERSION = "1"
"""Version of the cleaning rules.  Rejects and the manifest carry it; after a release with another version every
sweep believes nothing that was remembered, and reads again."""

QUARANTINED = (
    "reading it killed or stalled its worker again and again; it is read anew when the file changes, "
    "and once more by each sweep"
)
"""The reason of a reject that was made without reading the file."""

UNREADABLE = "the object store cannot read it"
"""How the reason begins of a reject whose object the server refuses to read."""


@dataclass(frozen=True, slots=True)
class Person:
    """The fields of one valid user CSV: names as written (trimmed), `birthts` the birth date in ms since 1970 UTC."""

    first_name: str
    last_name: str
    birthts: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of output.csv.  `img_path` is `<bucket>/<key>`, or empty without an image."""

    user_id: str
    first_name: str
    last_name: str
    birthts: int
    img_path: str


@dataclass(frozen=True, slots=True)
class Reject:
    """One line of rejects.csv: a CSV that could not be used.

    `line` is 1-based, None when the whole file is meant; `since` is the object's LastModified in whole seconds since
    1970 UTC; `etag` (without quotes) and `rules` say of which bytes and by which rules it was judged.
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
    """Which bytes were judged: the key they came from, ETag (without quotes), LastModified (whole seconds, UTC)."""

    source: str
    etag: str
    since: int


@dataclass(frozen=True, slots=True)
class ValidCsv:
    """A user's CSV that parsed."""

    version: CsvVersion
    person: Person


@dataclass(frozen=True, slots=True)
class InvalidCsv:
    """A user's CSV that did not parse, with the reason for its owner."""

    version: CsvVersion
    reason: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reading of a user's files found.  `csv` is None when there is none, `image` likewise (else its key).

    `image_source` is empty for an image in the source bucket.  Else `image` is a copy in the output bucket, made of
    this: a key of the source bucket, or a member of a bundle.  `dropped` are copies that were made by readings which
    this one supersedes, and which no row may ever have named.
    """

    user_id: str
    csv: ValidCsv | InvalidCsv | None
    image: str | None
    image_source: str = ""
    dropped: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The outcome as it lies in Redis between refresh and publish; `from_json` reads it back."""
        match self.csv:
            case ValidCsv(version, person):
                csv: list[Any] | None = [*_version(version), person.first_name, person.last_name, person.birthts]
            case InvalidCsv(version, reason, line):
                csv = [*_version(version), reason, line]
            case None:
                csv = None
        image: list[Any] = [self.image]
        if self.image_source or self.dropped:
            image += [self.image_source, self.dropped]
        return json.dumps([csv, *image], ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, user_id: str, text: str) -> "Outcome":
        """The inverse of `to_json`."""
        csv, *rest = json.loads(text)
        image = (*rest[:2], *map(tuple, rest[2:]))
        if csv is None:
            return cls(user_id, None, *image)
        version = CsvVersion(*csv[:3])
        if len(csv) == 6:
            return cls(user_id, ValidCsv(version, Person(*csv[3:])), *image)
        return cls(user_id, InvalidCsv(version, *csv[3:]), *image)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The names of the two buckets."""

    source: str
    output: str

    def img_path(self, image: str | None, image_source: str) -> str:
        """What output.csv says of an image, the fields as in `Outcome`."""
        return f"{self.output if image_source else self.source}/{image}" if image else ""


def _version(version: CsvVersion) -> tuple[str, str, int]:
    return version.source, version.etag, version.since
