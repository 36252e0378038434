"""The oracle: which rows may be served at each moment, and what must be published at the end.

Invariant at every moment: a served row was true of its user at some time, and no older row of that
user follows it.

Invariant after quiescence: each user with a valid source file has exactly the row computed from the
bucket. No other user has a row, except held rows, which equal an earlier valid version of the file.
Every reject is listed (`worker.check`).

A write of output.csv may show an older row only where no protocol can prevent it, and only for a
moment:

- the writer lost its lease by a fault while it was alive,
- the write landed after its sender had given it up,
- Redis returned to an earlier state, or
- the file was edited by hand.

For the users with rows changed by such a write, the first invariant is suspended until their rows
are right. The second one is not.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from shared.keys import UserFile, bundle_id, bundle_key, classify
from shared.manifest import Manifest
from shared.object_store import ObjectNotFound, ObjectStore
from shared.output_csv import OutputCsv, is_proper
from shared.published import OUTPUT
from shared.records import Row
from tests.faults.truth import Csv, UserTruth
from worker.check import check
from worker.published_files import read_published
from worker.trials import MOST_ATTEMPTS


class Divergence(AssertionError):
    """The published state violates an invariant, or did so during the history."""


ORPHAN = "no row names this image copy"
LOOSE = frozenset("cd")
"""Users that have files in bundles.

Their files come from several objects, so what one read finds is not the state at one moment. Only
their final state is checked, by `worker.check`.
"""


class Oracle:
    """Follows the acknowledged writes and the served rows.

    `found` collects the violations during the history.
    """

    def __init__(self, source: ObjectStore, output: ObjectStore) -> None:
        self._source, self._output = source, output
        self.users: defaultdict[str, UserTruth] = defaultdict(UserTruth)
        self.found: list[str] = []
        self.copies_images = False

    def wrote(self, key: str, state: Csv | bool) -> None:
        """Record an acknowledged write of a key.

        `state` is the content of a CSV (None: deleted), or whether an image exists.
        """
        file = classify(key)
        if isinstance(file, UserFile) and file.user_id not in LOOSE:
            self.users[file.user_id].wrote(file.extension, state)

    def unread(self, user_id: str, workers_lost: int) -> None:
        """Record that a user's CSV becomes a reject without being read.

        `workers_lost`: how many workers have died or hang. Fewer than `MOST_ATTEMPTS` is a
        violation.
        """
        if user_id not in LOOSE:
            self.users[user_id].unread = True
        if workers_lost < MOST_ATTEMPTS:
            self.found.append(
                f"{user_id}: expected quarantine only after all attempts, found it after {workers_lost} lost workers"
            )

    def doubt(self, user_ids: Iterable[str] | None = None) -> None:
        """Allow older rows of these users (None: all users) until their rows are right."""
        for user_id in self.users if user_ids is None else user_ids:
            self.users[user_id].doubtful = True

    def all_but_held(self, kept: Manifest) -> list[str]:
        """Return all users except those with a held row that `kept` records as it is served."""
        return [user_id for user_id, truth in self.users.items() if not truth.is_held(kept.get(user_id))]

    def served(self, *, excused: bool, by_hand: bool = False) -> None:
        """Check output.csv after a write, or after an edit `by_hand`.

        `excused`: no protocol can prevent this write, so older rows in it are allowed.
        """
        rows = self._rows()
        for user_id in (self.users.keys() | rows.keys()) - LOOSE:
            truth = self.users[user_id]
            if excused and rows.get(user_id) != truth.row:
                truth.doubtful = True
            wrong = truth.serve(rows.get(user_id), by_hand=by_hand)
            if wrong:
                self.found.append(f"{user_id}: {wrong}")

    def _rows(self) -> Mapping[str, Row]:
        try:
            body = self._output.get(OUTPUT).body
        except ObjectNotFound:
            return {}
        return {row.user_id: row for row in OutputCsv.repair(body).rows()}

    def expect_quiet(self, but: Iterable[str] = (), *, swept: bool = True) -> None:
        """Raise `Divergence` unless everything is right after quiescence.

        `but`: users that are not checked. If no sweep ran (`swept` False), orphan image copies are
        allowed: the worker that made one may have died, or may not have received the response.
        """
        unheard = set(but)
        if any(map(bundle_key, unheard)):
            unheard |= LOOSE
        wrong = [*self.found, *self._wrong_now(unheard)]
        found = check(self._source, self._output, self.copies_images)
        wrong += [told for told in found if not unheard & _told_of(told) and (swept or not told.endswith(ORPHAN))]
        if not is_proper(self._output.get(OUTPUT).body):
            wrong.append(f"{OUTPUT}: expected the canonical form that a publisher writes, found another form")
        if wrong:
            raise Divergence("\n".join(wrong))
        for user_id, truth in self.users.items():
            if user_id not in unheard:
                truth.settle()

    def has_orphans(self) -> bool:
        """Return whether there is an orphan image copy."""
        return any(told.endswith(ORPHAN) for told in check(self._source, self._output, self.copies_images))

    def _wrong_now(self, unheard: set[str]) -> Iterator[str]:
        unread = read_published(self._output).quarantined()
        for user_id, truth in self.users.items():
            wrong = None if user_id in unheard else truth.wrong_now(unread=user_id in unread)
            if wrong:
                yield f"{user_id}: {wrong}"


def _told_of(difference: str) -> set[str]:
    """Return the names that a line of `worker.check` may be about.

    It names a user, a bundle, or an image copy, which stands for its user.
    """
    name = difference.partition(":")[0]
    return {name, bundle_id(name), name.rpartition("/")[2].rpartition(".")[0]}
