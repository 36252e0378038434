"""The states of each user's files over time, and which of them the served row shows.

This module defines "older". Each part of a user's data (the CSV, and each image key) is a sequence
of states, one per acknowledged write. A served row must show, part by part, a state that does not
precede the state shown by the row before it. If several states look the same, the earliest is
taken, so that repeated content is never older. A broken CSV looks like the row that was served
before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.formats.manifest import Fact
from shared.formats.records import Person, Row
from shared.formats.source_keys import IMAGE_EXTENSIONS


class InvalidState:
    """A CSV that is not valid."""


INVALID = InvalidState()
CsvState = Person | InvalidState | None


@dataclass
class FileHistory:
    """The states of one part, oldest first, and the index of the one that was served last."""

    states: list[object] = field(default_factory=list)
    served_position: int = 0

    def advance_to(self, expected: object, row_before: object) -> bool:
        """Advance to the next state that looks like `expected`, or return False.

        `row_before`: the value that was served before. A broken CSV looks like it.
        """
        for position in range(self.served_position, len(self.states)):
            state = self.states[position]
            if expected == (row_before if state is INVALID else state):
                self.served_position = position
                return True
        return False


@dataclass
class UserTruth:
    """One user: the states of its files, and the row that is served (None: no row)."""

    csv: FileHistory = field(default_factory=lambda: FileHistory([None]))
    images: Mapping[str, FileHistory] = field(
        default_factory=lambda: {kind: FileHistory([False]) for kind in IMAGE_EXTENSIONS}
    )
    row: Row | None = None
    may_be_older: bool = False
    """A fault allows older rows for a moment. Only the final row must be right."""
    was_quarantined: bool = False
    """Some version of its CSV was quarantined: a reject, unread after too many lost workers."""
    was_edited: bool = False
    """Its row was edited by hand into one that was never true, and has not been right since."""

    def record_state(self, extension: str, state: CsvState | bool) -> None:
        """Record an acknowledged write of one of the user's files."""
        (self.csv if extension == "csv" else self.images[extension]).states.append(state)

    def check_row(self, row: Row | None, *, by_hand: bool = False) -> str | None:
        """Record the row that is served from now on, and return the violation, if any."""
        if row == self.row:
            return None
        before = self.row
        self.row = row
        if self.may_be_older:
            return self._check_uncertain_row(row, by_hand=by_hand)
        keeps_held_row = self.was_quarantined and _to_person(row) == _to_person(before)
        if not keeps_held_row and not self.csv.advance_to(_to_person(row), _to_person(before)):
            return (
                f"expected no older row after {_format_row(before)}, found {_format_row(row)}; "
                f"its CSVs: {self._format_states()}"
            )
        return self._check_images(row, before) if row else None

    def _check_uncertain_row(self, row: Row | None, *, by_hand: bool) -> str | None:
        if self._is_latest():
            return None
        is_unknown = row is not None and _to_person(row) not in self.csv.states
        if by_hand and is_unknown:
            self.was_edited = True
        if not is_unknown or self.was_edited:
            return None
        return (
            f"expected a row that was true at some time, found {_format_row(row)}; "
            f"its CSVs: {self._format_states()}"
        )

    def _check_images(self, row: Row, before: Row | None) -> str | None:
        served_kind = _get_image_kind(row)
        checked_kinds = [kind for kind in self.images if served_kind in (None, kind)]
        older_kinds = [
            kind
            for kind in checked_kinds
            if not self.images[kind].advance_to(kind == served_kind, None)
        ]
        if older_kinds:
            return (
                f"expected no older image after {_format_row(before)}, found {_format_row(row)}; "
                f"states of its {older_kinds[0]}: {self.images[older_kinds[0]].states}"
            )
        return None

    def _is_latest(self) -> bool:
        """Return whether the row matches the current files, and settle it if so."""
        is_right = self.explain_error() is None and self.csv.states[-1] is not INVALID
        if is_right:
            self.confirm()
        return is_right

    def confirm(self) -> None:
        """Record that the row is right: no earlier state may be served from now on."""
        self.may_be_older = False
        self.was_edited = self.was_edited and self.csv.states[-1] is INVALID
        for part in (self.csv, *self.images.values()):
            part.served_position = len(part.states) - 1

    def explain_error(self, *, is_quarantined: bool = False) -> str | None:
        """Return the violation by the served row if no work is left, or None.

        `is_quarantined`: the CSV is quarantined, so it counts as broken.
        """
        csv_state = INVALID if is_quarantined else self.csv.states[-1]
        person = _to_person(self.row)
        was_never_valid = person is not None and person not in self.csv.states
        if csv_state is INVALID and was_never_valid and not self.was_edited:
            return (
                f"expected a held row from a version of its CSV, found {person}; "
                f"its CSVs: {self._format_states()}"
            )
        if csv_state is not INVALID and person != csv_state:
            return (
                f"expected the row of the last CSV at the end, found {_format_row(self.row)}; "
                f"its CSVs: {self._format_states()}"
            )
        image_kind = self.row and _get_image_kind(self.row)
        existing_kinds = {kind for kind, part in self.images.items() if part.states[-1]}
        if self.row and (image_kind not in existing_kinds if existing_kinds else image_kind):
            return (
                "expected one of its images (none if it has none) at the end, "
                f"found {_format_row(self.row)}; its images: {sorted(existing_kinds)}"
            )
        return None

    def has_held_row(self, fact: Fact | None) -> bool:
        """Return whether the CSV is broken, and `fact` records the row that is held."""
        may_hold = self.csv.states[-1] is INVALID and not self.may_be_older and self.row is not None
        return may_hold and fact is not None and fact.person == _to_person(self.row)

    def _format_states(self) -> str:
        return " > ".join(_format_state(state) for state in self.csv.states)


def _format_state(state: object) -> str:
    if isinstance(state, Person):
        return state.first_name
    return "none" if state is None else "broken"


def _to_person(row: Row | None) -> Person | None:
    return Person(row.first_name, row.last_name, row.birthts) if row else None


def _get_image_kind(row: Row) -> str | None:
    return row.img_path.rpartition(".")[2] or None


def _format_row(row: Row | None) -> str:
    return f"{row.first_name}+{_get_image_kind(row)}" if row else "no row"
