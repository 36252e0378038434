"""The states of each user's files over time, and which of them the served row shows.

This module defines "older". Each part of a user's data (the CSV, and each image key) is a sequence
of states, one per acknowledged write. A served row must show, part by part, a state that does not
precede the state shown by the row before it. If several states look the same, the earliest is
taken, so that repeated content is never older. A broken CSV looks like the row that was served
before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.keys import IMAGE_EXTENSIONS
from shared.manifest import Fact
from shared.records import Person, Row


class Broken:
    """A CSV that is not valid."""


BROKEN = Broken()
Csv = Person | Broken | None


@dataclass
class Part:
    """The states of one part, oldest first, and the index of the one that was served last."""

    states: list[object] = field(default_factory=list)
    served: int = 0

    def follow(self, wanted: object, held: object) -> bool:
        """Advance to the next state that looks like `wanted`, or return False.

        `held`: the value that was served before. A broken CSV looks like it.
        """
        for place in range(self.served, len(self.states)):
            said = self.states[place]
            if wanted == (held if said is BROKEN else said):
                self.served = place
                return True
        return False


@dataclass
class UserTruth:
    """One user: the states of its files, and the row that is served (None: no row)."""

    csv: Part = field(default_factory=lambda: Part([None]))
    images: Mapping[str, Part] = field(default_factory=lambda: {kind: Part([False]) for kind in IMAGE_EXTENSIONS})
    row: Row | None = None
    doubtful: bool = False
    """A fault allows older rows for a moment. Only the final row must be right."""
    unread: bool = False
    """Some version of its CSV was quarantined: a reject, unread after too many lost workers."""
    falsified: bool = False
    """Its row was edited by hand into one that was never true, and has not been right since."""

    def wrote(self, extension: str, state: Csv | bool) -> None:
        """Record an acknowledged write of one of the user's files."""
        (self.csv if extension == "csv" else self.images[extension]).states.append(state)

    def serve(self, row: Row | None, *, by_hand: bool = False) -> str | None:
        """Record the row that is served from now on, and return the violation, if any."""
        if row == self.row:
            return None
        before, self.row = self.row, row
        if self.doubtful:
            return self._serve_in_doubt(row, by_hand=by_hand)
        held = self.unread and _person(row) == _person(before)
        if not held and not self.csv.follow(_person(row), _person(before)):
            return f"expected no older row after {_shown(before)}, found {_shown(row)}; its CSVs: {self._csvs()}"
        return self._follow_images(row, before) if row else None

    def _serve_in_doubt(self, row: Row | None, *, by_hand: bool) -> str | None:
        if self._is_latest():
            return None
        never_true = row is not None and _person(row) not in self.csv.states
        if by_hand and never_true:
            self.falsified = True
        return (
            f"expected a row that was true at some time, found {_shown(row)}; its CSVs: {self._csvs()}"
            if never_true and not self.falsified
            else None
        )

    def _follow_images(self, row: Row, before: Row | None) -> str | None:
        shown = _image(row)
        wrong = [
            kind
            for kind, part in self.images.items()
            if (shown is None or kind == shown) and not part.follow(kind == shown, None)
        ]
        if wrong:
            return (
                f"expected no older image after {_shown(before)}, found {_shown(row)}; "
                f"states of its {wrong[0]}: {self.images[wrong[0]].states}"
            )
        return None

    def _is_latest(self) -> bool:
        """Return whether the row matches the current files, and settle it if so."""
        right = self.wrong_now() is None and self.csv.states[-1] is not BROKEN
        if right:
            self.settle()
        return right

    def settle(self) -> None:
        """Record that the row is right: no earlier state may be served from now on."""
        self.doubtful = False
        self.falsified = self.falsified and self.csv.states[-1] is BROKEN
        for part in (self.csv, *self.images.values()):
            part.served = len(part.states) - 1

    def wrong_now(self, *, unread: bool = False) -> str | None:
        """Return the violation by the served row if no work is left, or None.

        `unread`: the CSV is quarantined, so it counts as broken.
        """
        said, person = BROKEN if unread else self.csv.states[-1], _person(self.row)
        valid = [state for state in self.csv.states if isinstance(state, Person)]
        if said is BROKEN and person is not None and person not in valid and not self.falsified:
            return f"expected a held row from a version of its CSV, found {person}; its CSVs: {self._csvs()}"
        if said is not BROKEN and person != said:
            return f"expected the row of the last CSV at the end, found {_shown(self.row)}; its CSVs: {self._csvs()}"
        shown, there = self.row and _image(self.row), {kind for kind, part in self.images.items() if part.states[-1]}
        if self.row and (shown not in there if there else shown):
            return (
                f"expected one of its images (none if it has none) at the end, found {_shown(self.row)}; "
                f"its images: {sorted(there)}"
            )
        return None

    def is_held(self, fact: Fact | None) -> bool:
        """Return whether the CSV is broken, and `fact` records the row that is held."""
        held = self.csv.states[-1] is BROKEN and not self.doubtful and self.row is not None
        return held and fact is not None and fact.person == _person(self.row)

    def _csvs(self) -> str:
        return " > ".join(_name(state) for state in self.csv.states)


def _name(state: object) -> str:
    return state.first_name if isinstance(state, Person) else "none" if state is None else "broken"


def _person(row: Row | None) -> Person | None:
    return Person(row.first_name, row.last_name, row.birthts) if row else None


def _image(row: Row) -> str | None:
    return row.img_path.rpartition(".")[2] or None


def _shown(row: Row | None) -> str:
    return f"{row.first_name}+{_image(row)}" if row else "no row"
