"""The sweep: compare the whole bucket with what is published, and mark whoever is not fine.  One LIST; no GET.

In this order, each step for a reason: figures and epoch before the LIST (whatever is lost later is seen later), then
the LIST, then who is dirty, then the published files.  Whoever is dirty at that moment is marked again: what is staged
of them may be older than the LIST.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd
from redis import Redis
from shared.keys import Ignored, UserFile, classify, newest_image
from shared.manifest import InvalidManifest, Manifest
from shared.output_csv import HEADER, InvalidOutputCsv, OutputCsv, read_frame

from shared import rejects as rejects_csv
from shared.object_store import ObjectNotFound, ObjectStore
from shared.rebuilds import PAGE_USERS
from shared.records import RULES_VERSION, Reject
from shared.task_queue import TaskQueue
from worker.backlog import Backlog, Page, new_token
from worker.ignored import SHOWN, IgnoredKeys
from worker.publish import MANIFEST, OUTPUT, REJECTS
from worker.server_figures import ServerFigures

logger = logging.getLogger(__name__)

ALIVE_MS = 60_000
QUEUED_S = 120


class SweepRecord:
    """What is known of sweeps in Redis: hash `sweep` (the last one), `sweep:alive`, `sweep:queued`, `evidence`."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def get(self, field: str) -> str | None:
        """A figure of the last sweep."""
        value = self._redis.hget("sweep", field)
        return None if value is None else value.decode()

    def request(self, tasks: TaskQueue, cause: str) -> None:
        """Enqueue a sweep, unless one waits already."""
        if self._redis.set("sweep:queued", cause, nx=True, ex=QUEUED_S):
            tasks.sweep(cause)

    def begin(self, token: str) -> bool:
        """Be the sweep that runs; False if another does."""
        self._redis.delete("sweep:queued")
        return bool(self._redis.set("sweep:alive", token, nx=True, px=ALIVE_MS))

    def still_alive(self) -> None:
        """Say so, at least once a minute."""
        self._redis.pexpire("sweep:alive", ALIVE_MS)

    def end(self, token: str) -> None:
        """Be no longer the sweep that runs."""
        if self._redis.get("sweep:alive") == token.encode():
            self._redis.delete("sweep:alive")

    def alive(self) -> bool:
        """Whether a sweep runs."""
        return bool(self._redis.exists("sweep:alive"))

    def evidence(self) -> str | None:
        """Why the next sweep is due."""
        value = self._redis.get("evidence")
        return None if value is None else value.decode()


class Listed(NamedTuple):
    """The source bucket as one LIST saw it."""

    etags: dict[str, str]
    images: dict[str, list[tuple[str, int]]]
    ignored: dict[str, tuple[str, int]]
    ignored_total: int
    objects: int


class Sweep:
    """Sweeps one source bucket.  `clock` gives Unix seconds."""

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        backlog: Backlog,
        tasks: TaskQueue,
        ignored: IgnoredKeys,
        figures: ServerFigures,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._output, self._backlog, self._tasks = source, output, backlog, tasks
        self._ignored, self._figures, self._clock = ignored, figures, clock
        self._record = SweepRecord(backlog.redis)

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
        self._backlog.begin_sweep(token)
        listed = self._list()
        dirty = self._backlog.dirty_users()
        published = read_published(self._output)
        marked = sorted(not_fine(listed, published, self._source.bucket) | dirty)
        self._backlog.mark(marked, "sweep", self._clock())
        record = {
            "last_at": began,
            "last_cause": cause,
            "last_objects": listed.objects,
            "last_marked": len(marked),
            "figures": figures or "",
        }
        whole = self._backlog.commit_sweep(token, by, (published.output_etag, published.rejects_etag), run_id, record)
        self._ignored.replace(listed.ignored, listed.ignored_total)
        self._hand_on(marked, published)
        logger.info("sweep (%s) objects=%d marked=%d whole=%s", cause, listed.objects, len(marked), whole)
        return len(marked)

    def _hand_on(self, marked: list[str], published: "PublishedFiles") -> None:
        self._backlog.add_pages("sweep", pages(marked))
        for _ in range(min(2, self._backlog.pages_left())):
            self._tasks.refresh_page()
        if not marked and None in {published.output_etag, published.rejects_etag}:
            self._backlog.wake_publisher()  # an empty bucket, too, has an output.csv

    def _list(self) -> Listed:
        listed, total = Listed({}, {}, {}, 0, 0), 0
        ignored_total = 0
        for objects in self._source.objects():
            self._record.still_alive()
            total += len(objects)
            for found in objects:
                file = classify(found.key)
                if isinstance(file, Ignored):
                    ignored_total += 1
                    if len(listed.ignored) < SHOWN:
                        listed.ignored[found.key] = (file.reason, found.last_modified)
                elif isinstance(file, UserFile) and file.is_csv:
                    listed.etags[file.user_id] = found.etag
                else:
                    listed.images.setdefault(file.user_id, []).append((found.key, found.last_modified))
        return listed._replace(ignored_total=ignored_total, objects=total)


class PublishedFiles(NamedTuple):
    """What lies in the output bucket; an object that is not there, or not ours to read, counts as empty."""

    output: bytes
    output_etag: str | None
    rejects: dict[str, Reject]
    rejects_etag: str | None
    manifest: Manifest


def read_published(store: ObjectStore) -> PublishedFiles:
    """Read output.csv, rejects.csv and the manifest.  Raises `StoreUnavailable`."""
    output, rejects, manifest = HEADER, dict[str, Reject](), Manifest.empty()
    output_etag = rejects_etag = None
    with contextlib.suppress(ObjectNotFound):
        stored = store.get(OUTPUT)
        output, output_etag = _readable(stored.body), stored.etag
    with contextlib.suppress(ObjectNotFound, rejects_csv.InvalidRejectsCsv):
        stored = store.get(REJECTS)
        rejects_etag = stored.etag
        rejects = dict(rejects_csv.decode(stored.body))
    with contextlib.suppress(ObjectNotFound, InvalidManifest):
        manifest = Manifest.decode(store.get(MANIFEST).body)
    return PublishedFiles(output, output_etag, rejects, rejects_etag, manifest)


def _readable(body: bytes) -> bytes:
    try:
        return OutputCsv(body).body
    except InvalidOutputCsv:
        return OutputCsv.repair(body).body


def not_fine(listed: Listed, published: PublishedFiles, source_bucket: str) -> set[str]:
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


def _source_frame(listed: Listed, source_bucket: str) -> pd.DataFrame:
    images = {
        user: f"{source_bucket}/{newest_image(found)}" for user, found in listed.images.items() if user in listed.etags
    }
    frame = pd.DataFrame({"etag": pd.Series(listed.etags, dtype="str")})
    frame["img_path"] = pd.Series(images, dtype="str").reindex(frame.index).fillna("")
    return frame


def pages(user_ids: Iterable[str]) -> list[Page]:
    """Users in pages, neighbours in the bucket together, so that one short LIST serves a page."""
    users = sorted(user_ids, key=lambda user_id: f"{user_id}.")
    return [Page(users[start : start + PAGE_USERS]) for start in range(0, len(users), PAGE_USERS)]
