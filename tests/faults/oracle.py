"""The oracle: which rows may be served at each moment, and what must be published at the end.

Invariant at every moment: a served row was true of its user at some time, and no older row of that
user follows it.

Invariant after quiescence: each user with a valid source file has exactly the row computed from the
bucket. No other user has a row, except held rows, which equal an earlier valid version of the file.
Every reject is listed (`rowdrop check`).

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

from shared.formats.manifest import Manifest
from shared.formats.object_names import OUTPUT_KEY
from shared.formats.output_csv import OutputCsv, is_canonical
from shared.formats.records import Row
from shared.formats.source_keys import UserFile, classify_key, make_bundle_id, parse_bundle_id
from shared.object_store import ObjectNotFound, ObjectStore
from tests.faults.truth import CsvState, UserTruth
from worker.commands.check import check_buckets
from worker.publishing.published_files import read_published_files
from worker.state.read_attempts import MAX_READ_ATTEMPTS


class OracleFailure(AssertionError):
    """The published state violates an invariant, or did so during the history."""


ORPHAN_MESSAGE = "no row names this image copy"
BUNDLED_USER_IDS = frozenset("cd")
"""Users that have files in bundles.

Their files come from several objects, so what one read finds is not the state at one moment. Only
their final state is checked, by `rowdrop check`.
"""


class Oracle:
    """Follows the acknowledged writes and the served rows.

    `found` collects the violations during the history.
    """

    def __init__(self, source: ObjectStore, output: ObjectStore) -> None:
        self._source = source
        self._output = output
        self.users: defaultdict[str, UserTruth] = defaultdict(UserTruth)
        self.problems: list[str] = []
        self.copy_images = False

    def record_write(self, key: str, state: CsvState | bool) -> None:
        """Record an acknowledged write of a key.

        `state` is the content of a CSV (None: deleted), or whether an image exists.
        """
        file = classify_key(key)
        if isinstance(file, UserFile) and file.user_id not in BUNDLED_USER_IDS:
            self.users[file.user_id].record_state(file.extension, state)

    def record_quarantine(self, user_id: str, workers_lost: int) -> None:
        """Record that a user's CSV becomes a reject without being read.

        `workers_lost`: how many workers have died or hang. Fewer than `MAX_READ_ATTEMPTS` is a
        violation.
        """
        if user_id not in BUNDLED_USER_IDS:
            self.users[user_id].was_quarantined = True
        if workers_lost < MAX_READ_ATTEMPTS:
            self.problems.append(
                f"{user_id}: expected quarantine only after all attempts, "
                f"found it after {workers_lost} lost workers"
            )

    def allow_older_rows(self, user_ids: Iterable[str] | None = None) -> None:
        """Allow older rows of these users (None: all users) until their rows are right."""
        for user_id in self.users if user_ids is None else user_ids:
            self.users[user_id].may_be_older = True

    def list_users_without_held_row(self, manifest: Manifest) -> list[str]:
        """Return all users except those with a held row that `manifest` records as it is served."""
        return [
            user_id
            for user_id, truth in self.users.items()
            if not truth.has_held_row(manifest.get(user_id))
        ]

    def check_published_rows(self, *, is_unpreventable: bool, by_hand: bool = False) -> None:
        """Check output.csv after a write, or after an edit `by_hand`.

        `is_unpreventable`: no protocol can prevent this write, so older rows in it are allowed.
        """
        rows = self._read_rows()
        for user_id in (self.users.keys() | rows.keys()) - BUNDLED_USER_IDS:
            truth = self.users[user_id]
            if is_unpreventable and rows.get(user_id) != truth.row:
                truth.may_be_older = True
            problem = truth.check_row(rows.get(user_id), by_hand=by_hand)
            if problem:
                self.problems.append(f"{user_id}: {problem}")

    def _read_rows(self) -> Mapping[str, Row]:
        try:
            body = self._output.get(OUTPUT_KEY).body
        except ObjectNotFound:
            return {}
        return {row.user_id: row for row in OutputCsv.repair(body).iterate_rows()}

    def check_quiescent_state(
        self, except_users: Iterable[str] = (), *, is_swept: bool = True
    ) -> None:
        """Raise `OracleFailure` unless everything is right after quiescence.

        `except_users`: users that are not checked. If no sweep ran (`is_swept` False), orphan
        image copies are allowed: the worker that made one may have died, or may not have received
        the response.
        """
        lost_users = set(except_users)
        if any(map(parse_bundle_id, lost_users)):
            lost_users |= BUNDLED_USER_IDS
        problems = [*self.problems, *self._list_user_problems(lost_users)]
        differences = check_buckets(self._source, self._output, self.copy_images).differences
        problems += [
            difference
            for difference in differences
            if not lost_users & _parse_subjects(difference)
            and (is_swept or not difference.endswith(ORPHAN_MESSAGE))
        ]
        if not is_canonical(self._output.get(OUTPUT_KEY).body):
            problems.append(
                f"{OUTPUT_KEY}: expected the canonical form that a publisher writes, "
                "found another form"
            )
        if problems:
            raise OracleFailure("\n".join(problems))
        for user_id, truth in self.users.items():
            if user_id not in lost_users:
                truth.confirm()

    def has_stray_copies(self) -> bool:
        """Return whether there is an orphan image copy."""
        return any(
            difference.endswith(ORPHAN_MESSAGE)
            for difference in check_buckets(
                self._source, self._output, self.copy_images
            ).differences
        )

    def _list_user_problems(self, lost_users: set[str]) -> Iterator[str]:
        quarantined_users = read_published_files(self._output).find_quarantined()
        for user_id, truth in self.users.items():
            problem = (
                None
                if user_id in lost_users
                else truth.explain_error(is_quarantined=user_id in quarantined_users)
            )
            if problem:
                yield f"{user_id}: {problem}"


def _parse_subjects(difference: str) -> set[str]:
    """Return the names that a line of `rowdrop check` may be about.

    It names a user, a bundle, or an image copy, which stands for its user.
    """
    name = difference.partition(":")[0]
    return {name, make_bundle_id(name), name.rpartition("/")[2].rpartition(".")[0]}
