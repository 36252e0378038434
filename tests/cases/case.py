"""Inputs as people have them, and what is right for each: rows, reasons, ignored files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from shared.formats.records import Person


class Kind(StrEnum):
    """How an input reaches Rowdrop; the value is the folder of such inputs."""

    CSV = "csv"
    BUNDLE = "bundles"
    FOLDER = "load"


class Entry(NamedTuple):
    """A reject, an ignored file or a suspicious entry; no name if it is the input itself."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.name else self.reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input.

    A row is `<user_id>,<first_name>,<last_name>,<birthts>`, and ends with `,image` if the user has
    one.
    """

    rows: tuple[str, ...] = ()
    rejects: tuple[Entry, ...] = ()
    ignored: tuple[Entry, ...] = ()
    suspicious: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """The outcome that is right: rows, and parts of each entry, separated by " … "."""

    rows: tuple[str, ...] = ()
    rejects: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    suspicious: tuple[str, ...] = ()

    def find_differences(self, outcome: Outcome) -> Iterator[str]:
        """Yield how the outcome differs from this one."""
        if self.rows != outcome.rows:
            yield f"expected the rows {self.rows}, found {outcome.rows}"
        for kind, expected, entries in (
            ("rejects", self.rejects, outcome.rejects),
            ("ignored files", self.ignored, outcome.ignored),
            ("suspicious entries", self.suspicious, outcome.suspicious),
        ):
            found = [str(entry) for entry in entries]
            if len(found) != len(expected):
                yield f"expected the {kind} {expected}, found {found}"
            for parts, entry in zip(expected, found, strict=False):
                if not all(part in entry for part in parts.split(" … ")):
                    yield f"expected {parts!r} in the {kind}, found {entry!r}"


Folder = Mapping[str, bytes | str]
"""The files of a folder by relative path: their bytes, or the target of a symbolic link."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input with the expected outcome.

    `name` is the name of the file; the extension of a bundle selects the format. `source` is the
    public report that the input follows: project, number, and what happened to its author. `why`
    says why the expected outcome is right. `zip_names` is the setting ZIP_NAMES.
    """

    kind: Kind
    name: str
    body: bytes | Folder
    expected: Expected
    source: str = ""
    why: str = ""
    zip_names: str = ""


def format_row(user_id: str, person: Person, *, has_image: bool = False) -> str:
    """Return the line of a row in an `Outcome`."""
    fields = [user_id, person.first_name, person.last_name, str(person.birthts)]
    return ",".join([*fields, "image"] if has_image else fields)


def csv_row(name: str, body: bytes | str, row: str, suspicious: str = "") -> Case:
    """Return a CSV that is read, and gives this row (without the user ID)."""
    lines = (suspicious,) if suspicious else ()
    return Case(Kind.CSV, name, _encode(body), Expected(rows=(f"{name},{row}",), suspicious=lines))


def csv_reject(name: str, body: bytes | str, reason: str) -> Case:
    """Return a CSV that is rejected. `reason` has parts of the reason, separated by " … "."""
    return Case(Kind.CSV, name, _encode(body), Expected(rejects=(reason,)))


def bundle(name: str, body: bytes, *rows: str, ignored: tuple[str, ...] = ()) -> Case:
    """Return a bundle that is read and gives these rows."""
    return Case(Kind.BUNDLE, name, body, Expected(rows=rows, ignored=ignored))


def bundle_reject(name: str, body: bytes, reason: str) -> Case:
    """Return a bundle that is rejected as a whole."""
    return Case(Kind.BUNDLE, name, body, Expected(rejects=(reason,)))


def _encode(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body
