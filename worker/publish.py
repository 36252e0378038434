"""Merges the pending results into output.csv and rejects.csv.

There is one writer, it writes conditionally, and no user becomes clean before both files are
confirmed. An ETag is the MD5 of the bytes, so `If-Match` alone does not order the writes: it
accepts A, B, A. Therefore the writer lease is fenced by a token, which is checked at BEGIN, at each
chunk of the batch and at CLEAN. If a replaced writer may have overwritten something, a loss signal
requests a sweep. After any refusal or error the table *and* the batch are dropped and read again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from shared import rejects as rejects_csv
from shared.manifest import Fact, InvalidManifest, Manifest
from shared.object_store import ObjectNotFound, ObjectStore, PreconditionFailed
from shared.output_csv import HEADER, OutputCsv
from shared.published import BUNDLES, IMAGES, MANIFEST, OUTPUT, REJECTS
from shared.records import Buckets, CsvVersion, InvalidCsv, Outcome, Person, Reject, Row, ValidCsv
from shared.unpacks import Unpacks
from worker.backlog import Backlog, Begun, LeaseLost, Note, Staged, new_token
from worker.readable_files import ReadableFiles

logger = logging.getLogger(__name__)

MANIFEST_EVERY_S = 10.0
"""Minimum seconds between two writes of the manifest while there are results to publish."""
MOST_DELETED = 500
"""Image copies deleted in one publish: a drop must not wait for thousands of deletions."""


@dataclass(frozen=True, slots=True)
class Table:
    """Both published files as last read or written, with their ETags (None: no such object).

    `mended`: the stored output.csv was edited by hand; `output` is its normalised content, which is
    not written yet.
    """

    output: OutputCsv
    output_etag: str | None
    rejects: Mapping[str, Reject]
    rejects_etag: str | None
    mended: bool = False


@dataclass(slots=True)
class Changes:
    """The changes that a batch makes to a table, by user; None removes the user's line."""

    rows: dict[str, Row | None] = field(default_factory=dict)
    rejects: dict[str, Reject | None] = field(default_factory=dict)
    facts: dict[str, Fact | None] = field(default_factory=dict)


class Publisher:
    """The writer of one output bucket.

    `clock` returns Unix seconds.
    """

    def __init__(self, store: ObjectStore, backlog: Backlog, source_bucket: str, clock: Callable[[], float]) -> None:
        self._store, self._backlog, self._clock = store, backlog, clock
        self._files = ReadableFiles(store, backlog)
        self._unpacks = Unpacks(backlog.redis)
        self._buckets = Buckets(source_bucket, store.bucket)
        self._copies = f"{store.bucket}/{IMAGES}/"
        self._has_copies, self._dropped = True, dict[str, str]()
        self._table: Table | None = None
        self._manifest: Manifest | None = None
        self._unwritten: dict[str, Fact | None] = {}
        self._manifest_written = clock()

    def publish(self) -> int:
        """Publish all pending results.

        Returns how many results are pending now, or -1 if another publisher holds the writer lease.
        1 also stands for a publish that was refused or lost its lease, and has to be retried.
        Raises `StoreUnavailable` or `redis.exceptions.RedisError`: then the users stay dirty, and
        the next call retries all of them.
        """
        token = new_token()
        try:
            begun = self._backlog.begin(token)
            return -1 if begun is None else self._publish(token, begun)
        except PreconditionFailed as error:
            logger.info("%s was changed by another process; the publisher reads it again", error)
            self._forget(token, evidence=False)
        except LeaseLost:
            logger.warning("publisher %s lost the writer lease; it retries and requests a sweep", token)
            self._forget(token, evidence=True)
        except BaseException:
            self._forget(token, evidence=True)
            raise
        return 1

    def _publish(self, token: str, begun: Begun) -> int:
        table, batch = self._table, begun.batch
        if table is None or (table.output_etag, table.rejects_etag) != (begun.etag, begun.rej_etag):
            table = self._load((begun.etag, begun.rej_etag))
            # The batch must be read after the ETags. Otherwise a writer that was suspended in
            # between and replaced would write its stale batch over newer rows despite If-Match.
            batch = self._backlog.batch(token)
        if not batch and table.output_etag and table.rejects_etag and not table.mended:
            self._look(table)
            self._delete_copies(table, token, batch)
            # No CLEAN: nothing was published, so nothing is recorded.
            self._backlog.release(token, evidence=False)
            return 0
        outcomes = {user: staged.outcome for user, staged in batch.items()}
        changes = merge(table, outcomes, self._fact, self._buckets)
        changed = _changed_users(table, changes) if begun.watched else None
        self._note_dropped_copies(table, changes, outcomes)
        self._table = table = self._write(table, changes, lambda: self._backlog.renew(token))
        # Before CLEAN, which releases the lease: no user may become clean during the deletion.
        self._delete_copies(table, token, batch)
        left = self._backlog.clean(
            token, table.output_etag or "", table.rejects_etag or "", len(table.output), batch, self._clock(), changed
        )
        self._unwritten.update(changes.facts)
        self._report(batch, table)
        return left

    def _report(self, batch: Mapping[str, Staged], table: Table) -> None:
        first = next(iter(batch), "none")
        logger.info(
            "published users: %s and %d more, rows=%d rejects=%d",
            first,
            max(0, len(batch) - 1),
            len(table.output),
            len(table.rejects),
        )

    def _forget(self, token: str, *, evidence: bool) -> None:
        self._table = None
        self._backlog.release(token, evidence=evidence)

    # -- objects that cannot be read ---------------------------------------------------------------
    def look_after_files(self) -> None:
        """Rewrite the published objects that could not be read in several checks in a row.

        Raises `StoreUnavailable` or `redis.exceptions.RedisError`; a later call resumes.
        """
        given_up = self._files.look()
        if MANIFEST in given_up:
            self.write_manifest()
        if BUNDLES in given_up:
            self._files.replace_shelf(self._unpacks)
        if {OUTPUT, REJECTS} & given_up:
            self._table = None
            self.publish()

    # -- the table ---------------------------------------------------------------------------------
    def _load(self, recorded: tuple[str | None, str | None]) -> Table:
        table = self._table = self._read_table()
        self._has_copies = self._copies.encode() in table.output.body
        if (table.output_etag, table.rejects_etag) != recorded:
            # Edited or deleted by hand, or written by a publisher that died before CLEAN.
            self._backlog.add_evidence("files_changed")
        return table

    def _read_table(self) -> Table:
        try:
            stored = self._files.get(REJECTS)
            rejects: Mapping[str, Reject] = _decoded_rejects(stored.body)
            rejects_etag: str | None = stored.etag
        except ObjectNotFound:
            rejects, rejects_etag = {}, None
        try:
            stored = self._files.get(OUTPUT)
            # A file edited by hand may be unsorted, but rows are found by bisection.
            output = OutputCsv.repair(stored.body)
            return Table(output, stored.etag, rejects, rejects_etag, mended=output.body is not stored.body)
        except ObjectNotFound:
            # Only the manifest still has the held rows, as their CSVs are rejects now. `_unwritten`
            # has the facts that were published since the manifest was written.
            facts = self._memo().merged(self._unwritten)
            rows = {row.user_id: row for row in facts.to_output_rows(self._buckets)}
            return Table(OutputCsv(HEADER).replace(rows), None, rejects, rejects_etag)

    def _write(self, table: Table, changes: Changes, renew_lease: Callable[[], None]) -> Table:
        output = table.output.replace(changes.rows)
        rejects = _changed(table.rejects, changes.rejects)
        output_etag = self._confirm(
            OUTPUT, output.body, table.output_etag, changed=table.mended or output.body != table.output.body
        )
        rejects_etag = table.rejects_etag
        if rejects != table.rejects or rejects_etag is None:
            # Fencing: a writer that lost its lease during the first write must not do the second.
            renew_lease()
            rejects_etag = self._files.replace(REJECTS, rejects_csv.encode(rejects.values()), rejects_etag)
        elif self._store.etag(REJECTS) != rejects_etag:
            raise PreconditionFailed(REJECTS)
        return Table(output, output_etag, rejects, rejects_etag)

    def _look(self, table: Table) -> None:
        """Verify that both files still have the known ETags.

        Raises `PreconditionFailed`. Called when the publisher is woken with nothing staged. A sweep
        does that, for example, if a file without any user's line was deleted: no user is dirty.
        """
        if (self._store.etag(OUTPUT), self._store.etag(REJECTS)) != (table.output_etag, table.rejects_etag):
            raise PreconditionFailed(f"{OUTPUT} or {REJECTS}")

    def _confirm(self, key: str, body: bytes, etag: str | None, *, changed: bool) -> str:
        """Write `body`, or compare the ETag if nothing changed, and return the ETag.

        Raises `PreconditionFailed`.
        """
        if changed or etag is None:
            return self._files.replace(key, body, etag)
        if self._store.etag(key) != etag:
            raise PreconditionFailed(key)
        return etag

    # -- copies of images --------------------------------------------------------------------------
    @property
    def has_dropped_copies(self) -> bool:
        """Whether superseded image copies wait for deletion by the next `publish`.

        It deletes them even if nothing is staged.
        """
        return bool(self._dropped)

    def _note_dropped_copies(self, table: Table, changes: Changes, outcomes: Mapping[str, Outcome]) -> None:
        """Record the superseded image copies, for deletion.

        These are copies that a row names and will not name any more, and copies that no row has
        named or will name.
        """
        for user_id, outcome in outcomes.items():
            # A reject without a held row gives no row, but its read has copied the image.
            unnamed = (outcome.image,) if outcome.image_source and changes.rows[user_id] is None else ()
            self._dropped |= {f"{self._buckets.output}/{image}": user_id for image in (*outcome.dropped, *unnamed)}
        # Without IMAGES=copy and bundles no row names a copy: skip the lookup of previous rows.
        if self._has_copies:
            for user_id, row in changes.rows.items():
                before = table.output.get(user_id)
                path = before.img_path if before else ""
                if path.startswith(self._copies) and (row is None or row.img_path != path):
                    self._dropped[path] = user_id
        self._has_copies |= any(row and row.img_path.startswith(self._copies) for row in changes.rows.values())

    def _delete_copies(self, table: Table, token: str, batch: Mapping[str, Staged]) -> None:
        """Delete up to `MOST_DELETED` unreferenced image copies while holding the writer lease.

        So no user becomes clean during the deletion. A user that is dirty for another reason is
        marked to be read again: its image may be back, with a copy made before this deletion.
        """
        chunk = dict(islice(self._dropped.items(), MOST_DELETED))
        if not chunk:
            return
        self._backlog.renew(token)
        rows = {path: table.output.get(user_id) for path, user_id in chunk.items()}
        unnamed = [path for path, row in rows.items() if row is None or row.img_path != path]
        self._store.delete_many([path.removeprefix(f"{self._buckets.output}/") for path in unnamed])
        notes = self._backlog.dirty([chunk[path] for path in unnamed])
        self._backlog.mark(
            [user for user, note in notes.items() if not _is_of(note, batch.get(user))], "event", self._clock()
        )
        for path in chunk:
            del self._dropped[path]

    # -- the manifest ------------------------------------------------------------------------------
    def _memo(self) -> Manifest:
        if self._manifest is None:
            try:
                self._manifest = Manifest.decode(self._files.get(MANIFEST).body)
            except (ObjectNotFound, InvalidManifest) as error:
                logger.info("no usable manifest (%s); the sweeps read every file once", error)
                self._manifest = Manifest.empty()
        return self._manifest

    def _fact(self, user_id: str) -> Fact | None:
        return self._unwritten[user_id] if user_id in self._unwritten else self._memo().get(user_id)

    def manifest_due(self, *, idle: bool) -> bool:
        """Return whether the manifest has unwritten facts and is to be written now.

        `idle`: there is nothing to publish. Otherwise it is written every `MANIFEST_EVERY_S`
        seconds.
        """
        return bool(self._unwritten) and (idle or self._clock() - self._manifest_written > MANIFEST_EVERY_S)

    def write_manifest(self) -> None:
        """Write the manifest unconditionally.

        Raises `StoreUnavailable`. An older, newer or missing manifest does no harm: it is only a
        cache.
        """
        merged = self._memo().merged(self._unwritten)
        self._store.put(MANIFEST, merged.encode())
        self._manifest, self._unwritten, self._manifest_written = merged, {}, self._clock()


def merge(
    table: Table, outcomes: Mapping[str, Outcome], fact: Callable[[str], Fact | None], buckets: Buckets
) -> Changes:
    """Compute the changes that these results make to the table.

    Pure except for `fact`, which returns the content of a user's last valid CSV. A valid CSV makes
    the row and removes the reject. No CSV removes both. An invalid CSV is a reject: the published
    row is held, with the current image, until the CSV is fixed or deleted.
    """
    changes = Changes()
    for user_id, outcome in outcomes.items():
        img_path = buckets.img_path(outcome.image, outcome.image_source)
        match outcome.csv:
            case ValidCsv(version, person):
                row = Row(user_id, person.first_name, person.last_name, person.birthts, img_path)
                changes.rows[user_id], changes.rejects[user_id] = row, None
                changes.facts[user_id] = Fact(user_id, version, person, outcome.image, False, outcome.image_source)
            case InvalidCsv():
                changes.rejects[user_id] = _reject(user_id, outcome.csv, table.rejects.get(user_id))
                held = table.output.get(user_id)
                changes.rows[user_id] = replace(held, img_path=img_path) if held else None
                changes.facts[user_id] = _held_fact(held, outcome, fact(user_id)) if held else None
            case None:
                changes.rows[user_id] = changes.rejects[user_id] = changes.facts[user_id] = None
    return changes


def _is_of(note: Note, staged: Staged | None) -> bool:
    """Return whether a user is dirty only because of the result that is being published."""
    return staged is not None and note.mark + b"|" + note.slot == staged.tokens


def _changed_users(table: Table, changes: Changes) -> set[str]:
    """Return the users with a row or reject that changes."""
    rows = (user_id for user_id, row in changes.rows.items() if row != table.output.get(user_id))
    return {*rows, *(user_id for user_id, reject in changes.rejects.items() if reject != table.rejects.get(user_id))}


def _reject(user_id: str, csv: InvalidCsv, known: Reject | None) -> Reject:
    # Writing the same bytes again is not a new reject, so the reject keeps its time.
    since = known.since if known and known.etag == csv.version.etag else csv.version.since
    return Reject(csv.version.source, user_id, csv.reason, csv.line, since, csv.version.etag)


def _held_fact(row: Row, outcome: Outcome, known: Fact | None) -> Fact:
    # Without a fact, for example after the manifest was lost, the version is unknown: empty.
    version = known.version if known else CsvVersion("", "", 0)
    person = Person(row.first_name, row.last_name, row.birthts)
    return Fact(row.user_id, version, person, outcome.image, True, outcome.image_source)


def _changed(rejects: Mapping[str, Reject], changes: Mapping[str, Reject | None]) -> Mapping[str, Reject]:
    if all(rejects.get(user_id) == reject for user_id, reject in changes.items()):
        return rejects
    changed = {**rejects, **changes}
    return {user_id: reject for user_id, reject in changed.items() if reject is not None}


def _decoded_rejects(body: bytes) -> Mapping[str, Reject]:
    try:
        return rejects_csv.decode(body)
    except rejects_csv.InvalidRejectsCsv as error:
        logger.warning(
            "rejects.csv was edited by hand and is not valid (%s);"
            " the publisher starts without rejects, and a sweep restores them",
            error,
        )
        return {}
