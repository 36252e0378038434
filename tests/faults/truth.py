"""What was true of each user, and when: the order of the acknowledged writes, and how far the served row lies in it.

"Older" is defined here.  Each part of a user's data (the CSV, and each image key) has been a sequence of states, one
for each acknowledged write.  A row that is served must show, part by part, a state that is not before the one which the
row before it showed.  Where several states look the same the earliest is taken, so that the same content again is never
older; a broken CSV looks like whatever row was served before it came.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.keys import IMAGE_EXTENSIONS
from shared.manifest import Fact
from shared.records import Person, Row


class Broken:
    """A CSV that is no person's."""


BROKEN = Broken()
Csv = Person | Broken | None


@dataclass
class Part:
    """The states of one part, oldest first, and the place of the one that was served last."""

    states: list[object] = field(default_factory=list)
    served: int = 0

    def follow(self, wanted: object, held: object) -> bool:
        """Go on to the next state that looks like `wanted`; False if there is none.  `held`: what was served before."""
        for place in range(self.served, len(self.states)):
            said = self.states[place]
            if wanted == (held if said is BROKEN else said):
                self.served = place
                return True
        return False


@dataclass
class UserTruth:
    """One user: what its files were, and the row that is served (None: none)."""

    csv: Part = field(default_factory=lambda: Part([None]))
    images: Mapping[str, Part] = field(default_factory=lambda: {kind: Part([False]) for kind in IMAGE_EXTENSIONS})
    row: Row | None = None
    doubtful: bool = False
    """Something has happened that may show an older row for a moment: it need only be right in the end."""
    unread: bool = False
    """Some version of its CSV was a reject without having been read, as it had cost too many workers."""
    falsified: bool = False
    """Its row was edited by hand into what was never true, and has not been right since."""

    def wrote(self, extension: str, state: Csv | bool) -> None:
        """A write of the user's file was acknowledged."""
        (self.csv if extension == "csv" else self.images[extension]).states.append(state)

    def serve(self, row: Row | None, *, by_hand: bool = False) -> str | None:
        """This row is served from now on; what is wrong with that, if anything."""
        if row == self.row:
            return None
        before, self.row = self.row, row
        if self.doubtful:
            return self._serve_in_doubt(row, by_hand=by_hand)
        held = self.unread and _person(row) == _person(before)
        if not held and not self.csv.follow(_person(row), _person(before)):
            return f"shows {_shown(row)} after {_shown(before)}, but its CSV was {self._csvs()}"
        return self._follow_images(row, before) if row else None

    def _serve_in_doubt(self, row: Row | None, *, by_hand: bool) -> str | None:
        if self._is_latest():
            return None
        never_true = row is not None and _person(row) not in self.csv.states
        if by_hand and never_true:
            self.falsified = True
        return f"shows {_shown(row)}, but its CSV was {self._csvs()}" if never_true and not self.falsified else None

    def _follow_images(self, row: Row, before: Row | None) -> str | None:
        shown = _image(row)
        wrong = [
            kind
            for kind, part in self.images.items()
            if (shown is None or kind == shown) and not part.follow(kind == shown, None)
        ]
        if wrong:
            return f"shows {_shown(row)} after {_shown(before)}, but its {wrong[0]} was {self.images[wrong[0]].states}"
        return None

    def _is_latest(self) -> bool:
        """Whether the row is what the files say now; then all that is older is behind it."""
        right = self.wrong_now() is None and self.csv.states[-1] is not BROKEN
        if right:
            self.settle()
        return right

    def settle(self) -> None:
        """The row is right: nothing that was is served any more."""
        self.doubtful = False
        self.falsified = self.falsified and self.csv.states[-1] is BROKEN
        for part in (self.csv, *self.images.values()):
            part.served = len(part.states) - 1

    def wrong_now(self, *, unread: bool = False) -> str | None:
        """What is wrong with the row that is served, if nothing more is to come; `unread`: of a CSV nobody may read."""
        said, person = BROKEN if unread else self.csv.states[-1], _person(self.row)
        valid = [state for state in self.csv.states if isinstance(state, Person)]
        if said is BROKEN and person is not None and person not in valid and not self.falsified:
            return f"holds {person}, which no version of its CSV said: {self._csvs()}"
        if said is not BROKEN and person != said:
            return f"shows {_shown(self.row)} in the end, but its CSV was {self._csvs()}"
        shown, there = self.row and _image(self.row), {kind for kind, part in self.images.items() if part.states[-1]}
        if self.row and (shown not in there if there else shown):
            return f"shows {_shown(self.row)} in the end, but has the images {sorted(there)}"
        return None

    def is_held(self, fact: Fact | None) -> bool:
        """Whether its CSV is broken, and this fact says what row is held."""
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
