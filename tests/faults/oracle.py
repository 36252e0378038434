"""The one oracle.

At every moment: each row that is served was true of that user at some time, and is never followed by an older one.
After quiescence: every user with a valid source has exactly the row computed from the bucket, nobody else has one, save
held rows, which equal a version of that file that was valid; and every reject is listed (`worker.check`).

A write of output.csv may show an older row only where no protocol can forbid it, and only for a moment: the writer had
lost its lease by a fault while it lived, the write landed after its sender had given it up, Redis fell back to what it
was before, or somebody has edited the file by hand.  Then the users whose rows it changed are *doubtful* until they are
right; that they must be right in the end stays.
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
    """What is published is not, or was not, what it must be."""


ORPHAN = "no row names this image copy"
LOOSE = frozenset("cd")
"""Users who have something in bundles.  Their parts come from several objects, and what of them is read together is no
moment in time; so only what they end in is looked at, by `worker.check`."""


class Oracle:
    """Follows the acknowledged writes and what is served; `found` is what was wrong on the way."""

    def __init__(self, source: ObjectStore, output: ObjectStore) -> None:
        self._source, self._output = source, output
        self.users: defaultdict[str, UserTruth] = defaultdict(UserTruth)
        self.found: list[str] = []
        self.copies_images = False

    def wrote(self, key: str, state: Csv | bool) -> None:
        """A write of this key was acknowledged: a CSV that says `state`, an image that is there or not."""
        file = classify(key)
        if isinstance(file, UserFile) and file.user_id not in LOOSE:
            self.users[file.user_id].wrote(file.extension, state)

    def unread(self, user_id: str, workers_lost: int) -> None:
        """This user's CSV becomes a reject without having been read; so many workers have died, or hang."""
        if user_id not in LOOSE:
            self.users[user_id].unread = True
        if workers_lost < MOST_ATTEMPTS:
            self.found.append(f"{user_id} is quarantined, but no more than {workers_lost} workers were lost")

    def doubt(self, user_ids: Iterable[str] | None = None) -> None:
        """Older rows of these users (None: of anyone) may be seen for a moment."""
        for user_id in self.users if user_ids is None else user_ids:
            self.users[user_id].doubtful = True

    def all_but_held(self, kept: Manifest) -> list[str]:
        """Everyone but those whose row is held, and in `kept` as it is served."""
        return [user_id for user_id, truth in self.users.items() if not truth.is_held(kept.get(user_id))]

    def served(self, *, excused: bool, by_hand: bool = False) -> None:
        """output.csv was written, or edited `by_hand`."""
        rows = self._rows()
        for user_id in (self.users.keys() | rows.keys()) - LOOSE:
            truth = self.users[user_id]
            if excused and rows.get(user_id) != truth.row:
                truth.doubtful = True
            wrong = truth.serve(rows.get(user_id), by_hand=by_hand)
            if wrong:
                self.found.append(f"{user_id} {wrong}")

    def _rows(self) -> Mapping[str, Row]:
        try:
            body = self._output.get(OUTPUT).body
        except ObjectNotFound:
            return {}
        return {row.user_id: row for row in OutputCsv.repair(body).rows()}

    def expect_quiet(self, but: Iterable[str] = (), *, swept: bool = True) -> None:
        """Raises `Divergence` unless all is as it must be after quiescence, leaving these users out.

        Unless it was `swept` since, a copy that nobody needs may be there: whoever made it may have died, or not know.
        """
        unheard = set(but)
        if any(map(bundle_key, unheard)):
            unheard |= LOOSE
        wrong = [*self.found, *self._wrong_now(unheard)]
        found = check(self._source, self._output, self.copies_images)
        wrong += [told for told in found if not unheard & _told_of(told) and (swept or not told.endswith(ORPHAN))]
        if not is_proper(self._output.get(OUTPUT).body):
            wrong.append(f"{OUTPUT} is not as a publisher writes it")
        if wrong:
            raise Divergence("\n".join(wrong))
        for user_id, truth in self.users.items():
            if user_id not in unheard:
                truth.settle()

    def has_orphans(self) -> bool:
        """Whether there is a copy of an image that nobody needs."""
        return any(told.endswith(ORPHAN) for told in check(self._source, self._output, self.copies_images))

    def _wrong_now(self, unheard: set[str]) -> Iterator[str]:
        unread = read_published(self._output).quarantined()
        for user_id, truth in self.users.items():
            wrong = None if user_id in unheard else truth.wrong_now(unread=user_id in unread)
            if wrong:
                yield f"{user_id} {wrong}"


def _told_of(difference: str) -> set[str]:
    """Whom a line of `worker.check` is about: a user, a bundle, or the user of a copied image."""
    name = difference.partition(":")[0]
    return {name, bundle_id(name), name.rpartition("/")[2].rpartition(".")[0]}
