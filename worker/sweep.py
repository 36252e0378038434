"""Reconcile: compare the bucket with the published files and mark every user that is out of sync.

It costs one LIST of the source bucket and no GET of a user file. It runs every hour, at every
start, and on a loss signal; by hand: `python -m worker.sweep`.

The order of the steps matters:
1. Read MinIO's metrics and start a new trust state (`epoch`). A loss signal from here on makes the
   commit fail.
2. LIST the source bucket.
3. Read the dirty users. They are marked again, because their pending results may be older than the
   LIST.
4. Read the published files.

A user that is out of sync, and was dirty neither before nor after the LIST, may be silent drift:
see `worker.healed`.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping

import pandas as pd

from shared.keys import bundle_id, bundle_key, csv_key
from shared.object_store import ObjectInfo, ObjectStore, StoreUnavailable
from shared.output_csv import OutputCsv, read_frame
from shared.published import IMAGES, UNPACKED
from shared.records import RULES_VERSION, Buckets, Reject
from shared.settings import InvalidSettings
from shared.unpacks import Unpacks
from worker.backlog import NOTHING_KNOWN, Backlog, new_token
from worker.bulk import BulkWork
from worker.bundles import Bundles
from worker.expected import Expected, expected
from worker.ignored import SHOWN, IgnoredKeys
from worker.images import Copies
from worker.listing import Listing
from worker.published_files import PublishedFiles, read_published
from worker.server_figures import ServerFigures
from worker.shelf import digest_of, is_up_to_date, read_shelf
from worker.sweep_record import SweepRecord
from worker.trials import Trials
from worker.unpack import MOST_TRIES, STUCK, remove_unpacked
from worker.wiring import Wiring

logger = logging.getLogger(__name__)


class Sweep:
    """Sweeps one source bucket. `clock` returns Unix seconds."""

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        backlog: Backlog,
        bulk: BulkWork,
        ignored: IgnoredKeys,
        figures: ServerFigures,
        clock: Callable[[], float] = time.time,
        bundles: Bundles | None = None,
        copies: Copies | None = None,
    ) -> None:
        self._buckets = Buckets(source.bucket, output.bucket)
        self._bundles = bundles or Bundles(output, backlog, clock)
        self._copies = copies or Copies(source, output, all_images=False)
        self._unpacks = Unpacks(backlog.redis)
        self._source, self._output, self._backlog, self._bulk = source, output, backlog, bulk
        self._ignored, self._figures, self._clock = ignored, figures, clock
        self._record, self._trials = SweepRecord(backlog.redis), Trials(backlog.redis)

    def run(self, cause: str) -> int:
        """Sweep once and return the number of marked users; -1 if another sweep is running.

        Raises `StoreUnavailable`.
        """
        token = new_token()
        if not self._record.begin(token):
            return -1
        try:
            return self._run(token, cause)
        finally:
            self._record.end(token)

    def _run(self, token: str, cause: str) -> int:
        began = self._clock()
        # Read before the LIST: what is lost after this point differs at the next comparison.
        figures, run_id, by = self._figures.read(), self._backlog.run_id(), self._backlog.published().by
        cause = ", ".join(sorted(self._backlog.begin_sweep(token) - {NOTHING_KNOWN})) or cause
        # A user that is published during the LIST is dirty only here.
        dirty_before = self._backlog.dirty_users()
        listed, there = self._list(), self._list_copies()
        self._look_at_shelf()
        dirty = self._backlog.dirty_users()
        wanted = expected(listed, self._bundles, self._copies, self._buckets)
        published = read_published(self._output)
        # A user with a reject and no held row needs no image copy: no row could name it.
        wanted = wanted.but_for(_without_row(published))
        wrong = not_fine(wanted, published) | wanted.without_copy(there)
        unexplained = self._unexplained(wrong, dirty | dirty_before, published)
        pardoned = published.quarantined()
        # A quarantine may be wrong, and an unchanged file is not read again: grant one attempt.
        self._trials.pardon(pardoned)
        wrong |= self._wrong_bundles(listed) | self._remove_orphans(wanted, there, published)
        marked = sorted(wrong | dirty | pardoned.keys() | published.unreadable())
        # Marked separately, so that `worker.healed` can count silent repairs.
        self._backlog.mark(sorted(unexplained), "sweep", self._clock(), unexplained=True)
        self._backlog.mark([user for user in marked if user not in unexplained], "sweep", self._clock())
        record = {
            "last_at": began,
            "last_cause": cause,
            "last_objects": listed.objects,
            "last_marked": len(marked),
            "figures": figures or "",
        }
        # Commit before the bulk work: every user is marked, so a crash from here on loses nothing.
        whole = self._backlog.commit_sweep(token, by, (published.output_etag, published.rejects_etag), run_id, record)
        self._ignored.replace(listed.ignored, listed.ignored_total)
        self._bulk.enqueue(marked, self._record.still_alive)
        self._tidy_up()
        if not published.proper or None in {published.output_etag, published.rejects_etag}:
            # A file is missing or was edited by hand: the publisher must write it, even if nothing
            # is staged. An empty bucket has an output.csv as well.
            self._backlog.wake_publisher()
        logger.info("sweep finished (%s) objects=%d marked=%d whole=%s", cause, listed.objects, len(marked), whole)
        return len(marked)

    def _list(self) -> Listing:
        listing = Listing(shown=SHOWN)
        try:
            for objects in self._source.objects():
                self._record.still_alive()
                listing.add(objects)
        except StoreUnavailable as error:
            self._backlog.note_source_failure(str(error))
            raise
        self._backlog.note_source_read()
        return listing

    def _list_copies(self) -> dict[str, ObjectInfo]:
        there: dict[str, ObjectInfo] = {}
        for page in self._output.objects(folder=IMAGES):
            self._record.still_alive()
            there.update((info.key, info) for info in page)
        return there

    # -- bundles -----------------------------------------------------------------------------------
    def _look_at_shelf(self) -> None:
        """Load the current bundle catalog and invalidate the catalogs that other processes cache.

        This must happen before the dirty users are read: a bundle is dirty until all users that are
        or were in it are marked.
        """
        token = self._backlog.shelf_token()
        shelf, etag = read_shelf(self._output)
        self._backlog.renew_shelf(etag, token)
        self._bundles.use(shelf)

    def _wrong_bundles(self, listed: Listing) -> set[str]:
        """Return the IDs of the bundles that do not match their catalog entry.

        A bundle that was given up is granted one more attempt.
        """
        shelved = self._bundles.shelf.bundles
        wrong = set()
        for key in shelved.keys() | listed.bundles.keys():
            info, on_shelf = listed.bundles.get(key), shelved.get(key)
            if on_shelf and on_shelf.reason.startswith(STUCK):
                self._unpacks.pardon(digest_of(key, on_shelf.etag), MOST_TRIES - 1)
                wrong.add(bundle_id(key))
            if not is_up_to_date(key, on_shelf, (info.etag, info.last_modified) if info else None):
                wrong.add(bundle_id(key))
        return wrong

    def _tidy_up(self) -> None:
        """Delete unpacked folders that no catalog entry names.

        Skipped while another process holds the unpack lease, because its folder is not in the
        catalog yet.
        """
        token = new_token()
        if not self._unpacks.take(token):
            return
        try:
            shelf, _ = read_shelf(self._output)
            visible = {shelved.digest for shelved in shelf.bundles.values()}
            for digest in set(self._output.folders(UNPACKED)) - visible:
                remove_unpacked(self._output, digest, self._unpacks.still_alive)
        finally:
            self._unpacks.give_back(token)

    def _remove_orphans(self, wanted: Expected, there: Mapping[str, ObjectInfo], published: PublishedFiles) -> set[str]:
        """Delete orphaned image copies that no row names; return the users to mark.

        These users are marked after the deletion: a concurrent read may have found the copy in
        place, so the user must be read again.
        """
        output, orphans = OutputCsv(published.output), wanted.orphans(there)
        paths = {key: self._buckets.img_path(key, "a copy") for key in orphans}
        rows = {key: output.get(user_id) for key, user_id in orphans.items()}
        unnamed = [key for key, row in rows.items() if row is None or row.img_path != paths[key]]
        self._output.delete_many(unnamed)
        return {orphans[key] for key in unnamed}

    def _unexplained(self, wrong: set[str], dirty: set[str], published: PublishedFiles) -> set[str]:
        """Return the out-of-sync users that no event, bundle or change of rules explains.

        Empty while a bundle is dirty, because its users may be out of sync for that reason.
        """
        if not published.output_etag or any(map(bundle_key, dirty)):
            return set()
        return {user for user in wrong - dirty - _of_other_rules(published) if bundle_key(user) is None}


def not_fine(wanted: Expected, published: PublishedFiles) -> set[str]:
    """Return the users that may be out of sync. Pure.

    A user without a CSV is in sync if it has neither row nor reject. A user with a CSV is in sync
    if its row, if any, names the image of the LIST, and its CSV (by source and ETag) is either the
    rejected one or the one from which, according to the manifest, the row was made.
    """
    source = wanted.frame
    rows = read_frame(published.output).set_index("user_id")
    facts = published.manifest.frame().set_index("user_id")
    facts = facts[facts["rules"] == RULES_VERSION]
    rejects = pd.Series(
        {user: _version(reject) for user, reject in published.rejects.items() if reject.rules == RULES_VERSION},
        name="rejected",
        dtype="str",
    )
    everyone = source.index.union(rows.index).union(pd.Index(list(published.rejects), dtype="str"))
    source, rows, facts = source.reindex(everyone), rows.reindex(everyone), facts.reindex(everyone)
    rejected = rejects.reindex(everyone)
    has_csv, has_row = source["etag"].notna(), rows["birthts"].notna()
    in_rejects = pd.Series(everyone.isin(list(published.rejects)), index=everyone)
    image_right = ~has_row | (rows["img_path"] == source["img_path"])
    same = (facts["csv_etag"] == source["etag"]) & (facts["csv_source"] == source["source"])
    # Also compare the values: a row may have been edited by hand since the manifest was written.
    same &= facts["birthts"] == rows["birthts"]
    for column in ("first_name", "last_name"):
        same &= facts[column] == rows[column]
    believed = (rejected == source["etag"] + source["source"]) | (same & has_row & ~in_rejects)
    fine = (~has_csv & ~has_row & ~in_rejects) | (has_csv & image_right & believed)
    # A comparison with a missing value may be NA, which counts as out of sync.
    return set(everyone[~fine.fillna(False).astype(bool)])


def _without_row(published: PublishedFiles) -> set[str]:
    """Return the users with a reject and without a held row."""
    output = OutputCsv(published.output)
    return {user_id for user_id in published.rejects if output.get(user_id) is None}


def _of_other_rules(published: PublishedFiles) -> set[str]:
    """Return the users with a row or reject that was made under another `RULES_VERSION`.

    Their published state may change without any loss.
    """
    facts = published.manifest.frame()
    rejects = published.rejects.items()
    return {
        *facts.loc[facts["rules"] != RULES_VERSION, "user_id"],
        *(user_id for user_id, reject in rejects if reject.rules != RULES_VERSION),
    }


def _version(reject: Reject) -> str:
    """Return ETag and source of the rejected CSV, concatenated as in `not_fine`."""
    # The source of a user's own CSV, and of a bundle itself, is empty in `Expected.frame`.
    is_own = reject.key in {csv_key(reject.user_id), bundle_key(reject.user_id)}
    return reject.etag + ("" if is_own else reject.key)


def main() -> None:
    """Enqueue a sweep for the workers of the servers that the environment configures."""
    try:
        wiring = Wiring.from_environment()
    except InvalidSettings as error:
        sys.exit(f"{error}\n(if ./run.sh runs the servers, first run: set -a; . var/credentials/worker.env; set +a)")
    SweepRecord(wiring.redis).request(wiring.tasks, "by hand")
    wiring.close()


if __name__ == "__main__":
    main()
