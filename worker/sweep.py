"""The sweep: compare the whole bucket with what is published, and mark whoever is not fine.  One LIST; no GET.

Of itself every hour, at every start and on evidence of a loss; by hand: `python -m worker.sweep`.

In this order, each step for a reason: figures and epoch before the LIST (whatever is lost later is seen later), then
the LIST, then who is dirty, then the published files.  Whoever is dirty at that moment is marked again: what is staged
of them may be older than the LIST.  Who differs, and was dirty neither before nor after the LIST, may have been lost:
see `worker.healed`.
"""

import logging
import time
from collections.abc import Callable

import pandas as pd

from shared.object_store import ObjectStore, StoreUnavailable
from shared.output_csv import read_frame
from shared.records import RULES_VERSION
from worker.backlog import NOTHING_KNOWN, Backlog, new_token
from worker.bulk import BulkWork
from worker.ignored import SHOWN, IgnoredKeys
from worker.listing import Listing
from worker.published_files import PublishedFiles, read_published
from worker.server_figures import ServerFigures
from worker.sweep_record import SweepRecord
from worker.trials import Trials
from worker.wiring import Wiring

logger = logging.getLogger(__name__)


class Sweep:
    """Sweeps one source bucket.  `clock` gives Unix seconds."""

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        backlog: Backlog,
        bulk: BulkWork,
        ignored: IgnoredKeys,
        figures: ServerFigures,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._output, self._backlog, self._bulk = source, output, backlog, bulk
        self._ignored, self._figures, self._clock = ignored, figures, clock
        self._record, self._trials = SweepRecord(backlog.redis), Trials(backlog.redis)

    def run(self, cause: str) -> int:
        """Sweep once.  Returns how many users were marked, -1 if another sweep runs.  Raises `StoreUnavailable`."""
        token = new_token()
        if not self._record.begin(token):
            return -1
        try:
            return self._run(token, cause)
        finally:
            self._record.end(token)

    def _run(self, token: str, cause: str) -> int:
        began = self._clock()
        figures, run_id, by = self._figures.read(), self._backlog.run_id(), self._backlog.published().by
        cause = ", ".join(sorted(self._backlog.begin_sweep(token) - {NOTHING_KNOWN})) or cause
        dirty_before = self._backlog.dirty_users()
        listed = self._list()
        dirty = self._backlog.dirty_users()
        published = read_published(self._output)
        wrong = not_fine(listed, published, self._source.bucket)
        unexplained = wrong - dirty - dirty_before - _of_other_rules(published) if published.output_etag else set()
        pardoned = published.quarantined()
        self._trials.pardon(pardoned)  # the verdict may be wrong, and nobody would ever notice
        marked = sorted(wrong | dirty | pardoned.keys())
        self._backlog.mark(sorted(unexplained), "sweep", self._clock(), unexplained=True)
        self._backlog.mark([user for user in marked if user not in unexplained], "sweep", self._clock())
        record = {
            "last_at": began,
            "last_cause": cause,
            "last_objects": listed.objects,
            "last_marked": len(marked),
            "figures": figures or "",
        }
        whole = self._backlog.commit_sweep(token, by, (published.output_etag, published.rejects_etag), run_id, record)
        self._ignored.replace(listed.ignored, listed.ignored_total)
        self._bulk.enqueue(marked, self._record.still_alive)
        if not published.proper or None in {published.output_etag, published.rejects_etag}:
            self._backlog.wake_publisher()  # an empty bucket, too, has an output.csv
        logger.info("sweep (%s) objects=%d marked=%d whole=%s", cause, listed.objects, len(marked), whole)
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


def not_fine(listed: Listing, published: PublishedFiles, source_bucket: str) -> set[str]:
    """The users of whom it is not certain that their published row is what the bucket says.  Pure.

    Fine is a user without a CSV who has neither row nor reject; and one with a CSV whose row names the image of the
    LIST and whose CSV, by its ETag, is either the rejected one or the one that the manifest says the row was made of.
    """
    source = _source_frame(listed, source_bucket)
    rows = read_frame(published.output).set_index("user_id")
    facts = published.manifest.frame().set_index("user_id")
    facts = facts[facts["rules"] == RULES_VERSION]
    rejects = pd.Series(
        {user: reject.etag for user, reject in published.rejects.items() if reject.rules == RULES_VERSION},
        name="rejected",
        dtype="str",
    )
    everyone = source.index.union(rows.index).union(pd.Index(list(published.rejects), dtype="str"))
    source, rows, facts = source.reindex(everyone), rows.reindex(everyone), facts.reindex(everyone)
    rejected = rejects.reindex(everyone)
    has_csv, has_row = source["etag"].notna(), rows["birthts"].notna()
    in_rejects = pd.Series(everyone.isin(list(published.rejects)), index=everyone)
    image_right = ~has_row | (rows["img_path"] == source["img_path"])
    same = (facts["csv_etag"] == source["etag"]) & (facts["birthts"] == rows["birthts"])
    for column in ("first_name", "last_name"):
        same &= facts[column] == rows[column]
    believed = (rejected == source["etag"]) | (same & has_row & ~in_rejects)
    fine = (~has_csv & ~has_row & ~in_rejects) | (has_csv & image_right & believed)
    return set(everyone[~fine.fillna(False).astype(bool)])


def _of_other_rules(published: PublishedFiles) -> set[str]:
    """The users whose row or reject was made by other rules than today's: they may change without having been lost."""
    facts = published.manifest.frame()
    rejects = published.rejects.items()
    return {
        *facts.loc[facts["rules"] != RULES_VERSION, "user_id"],
        *(user_id for user_id, reject in rejects if reject.rules != RULES_VERSION),
    }


def _source_frame(listed: Listing, source_bucket: str) -> pd.DataFrame:
    images = {user: f"{source_bucket}/{listed.image(user)}" for user in listed.images.keys() & listed.csvs.keys()}
    frame = pd.DataFrame({"etag": pd.Series(listed.csvs, dtype="str")})
    frame["img_path"] = pd.Series(images, dtype="str").reindex(frame.index).fillna("")
    return frame


def main() -> None:
    """Have a sweep begun now, by the workers of the servers that the environment names."""
    wiring = Wiring.from_environment()
    SweepRecord(wiring.redis).request(wiring.tasks, "by hand")
    wiring.close()


if __name__ == "__main__":
    main()
