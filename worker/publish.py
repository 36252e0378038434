"""Merge what is staged into output.csv and rejects.csv.

One writer, conditional writes, and nothing is called clean before both files are confirmed.  The ETag of an object is
the MD5 of its bytes, so `If-Match` alone orders nothing (A, B, A passes): the writer's token is checked when it begins,
at each chunk it reads and when it cleans, and whatever a replaced writer may have overwritten is evidence for a sweep.
On any refusal or doubt the table *and* the batch are forgotten and read anew.
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
MOST_DELETED = 500
"""Copies of images that are deleted in one publish: a drop must not wait for thousands of them."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is published: both files as last read or written, with their ETags (None: there is no such object).

    `mended`: what lies in the bucket is not quite this, because it had been edited by hand.
    """

    output: OutputCsv
    output_etag: str | None
    rejects: Mapping[str, Reject]
    rejects_etag: str | None
    mended: bool = False


@dataclass(slots=True)
class Changes:
    """What a batch does to a table; a value of None takes the user's line away."""

    rows: dict[str, Row | None] = field(default_factory=dict)
    rejects: dict[str, Reject | None] = field(default_factory=dict)
    facts: dict[str, Fact | None] = field(default_factory=dict)


class Publisher:
    """The writer of one output bucket.  `clock` gives Unix seconds."""

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
        """Publish everything staged.  Returns how much is staged by now, or -1 if another publisher is at it.

        Raises `StoreUnavailable`, `redis.exceptions.RedisError`: then nothing was called clean, and all of it is tried
        again at the next call.
        """
        token = new_token()
        try:
            begun = self._backlog.begin(token)
            return -1 if begun is None else self._publish(token, begun)
        except PreconditionFailed as error:
            logger.info("%s was written by another; publishing anew", error)
            self._forget(token, evidence=False)
        except LeaseLost:
            logger.warning("%s lost its lease while publishing", token)
            self._forget(token, evidence=True)
        except BaseException:
            self._forget(token, evidence=True)
            raise
        return 1

    def _publish(self, token: str, begun: Begun) -> int:
        table, batch = self._table, begun.batch
        if table is None or (table.output_etag, table.rejects_etag) != (begun.etag, begun.rej_etag):
            table = self._load((begun.etag, begun.rej_etag))
            # The batch must be younger than the ETags: else a writer that slept in between, and was replaced, would
            # put its old batch over what the other one wrote, and no If-Match would stop it.
            batch = self._backlog.batch(token)
        if not batch and table.output_etag and table.rejects_etag and not table.mended:
            self._look(table)
            self._delete_copies(table, token, batch)
            self._backlog.release(token, evidence=False)
            return 0
        outcomes = {user: staged.outcome for user, staged in batch.items()}
        changes = merge(table, outcomes, self._fact, self._buckets)
        changed = _changed_users(table, changes) if begun.watched else None
        self._note_dropped_copies(table, changes, outcomes)
        self._table = table = self._write(table, changes, lambda: self._backlog.renew(token))
        self._delete_copies(table, token, batch)
        left = self._backlog.clean(
            token, table.output_etag or "", table.rejects_etag or "", len(table.output), batch, self._clock(), changed
        )
        self._unwritten.update(changes.facts)
        self._report(batch, table)
        return left

    def _report(self, batch: Mapping[str, Staged], table: Table) -> None:
        first = next(iter(batch), "nobody")
        logger.info(
            "%s and %d more published rows=%d rejects=%d",
            first,
            max(0, len(batch) - 1),
            len(table.output),
            len(table.rejects),
        )

    def _forget(self, token: str, *, evidence: bool) -> None:
        self._table = None
        self._backlog.release(token, evidence=evidence)

    # -- objects that cannot be read ---------------------------------------------------------------------------------
    def look_after_files(self) -> None:
        """Rewrite the published objects that exist, and could not be read at several looks running.

        Raises `StoreUnavailable`, `redis.exceptions.RedisError`; a later call goes on with it.
        """
        given_up = self._files.look()
        if MANIFEST in given_up:
            self.write_manifest()
        if BUNDLES in given_up:
            self._files.replace_shelf(self._unpacks)
        if {OUTPUT, REJECTS} & given_up:
            self._table = None
            self.publish()

    # -- the table ---------------------------------------------------------------------------------------------------
    def _load(self, recorded: tuple[str | None, str | None]) -> Table:
        table = self._table = self._read_table()
        self._has_copies = self._copies.encode() in table.output.body
        if (table.output_etag, table.rejects_etag) != recorded:
            # No publisher recorded these: edited or deleted by hand, or written by one that died.
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
            # A file edited by hand may be in any order; lines are found by bisection, so it is put right first.
            output = OutputCsv.repair(stored.body)
            return Table(output, stored.etag, rejects, rejects_etag, mended=output.body is not stored.body)
        except ObjectNotFound:
            facts = self._memo().merged(self._unwritten)  # those that were published since it was written
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
            renew_lease()
            rejects_etag = self._files.replace(REJECTS, rejects_csv.encode(rejects.values()), rejects_etag)
        elif self._store.etag(REJECTS) != rejects_etag:
            raise PreconditionFailed(REJECTS)
        return Table(output, output_etag, rejects, rejects_etag)

    def _look(self, table: Table) -> None:
        """Nothing is staged, but somebody woke us: perhaps a sweep, because a file is gone that holds nobody's line."""
        if (self._store.etag(OUTPUT), self._store.etag(REJECTS)) != (table.output_etag, table.rejects_etag):
            raise PreconditionFailed(f"{OUTPUT} or {REJECTS}")

    def _confirm(self, key: str, body: bytes, etag: str | None, *, changed: bool) -> str:
        """Have `body` there, by a write or (nothing changed) by a look; raises `PreconditionFailed`."""
        if changed or etag is None:
            return self._files.replace(key, body, etag)
        if self._store.etag(key) != etag:
            raise PreconditionFailed(key)
        return etag

    # -- copies of images --------------------------------------------------------------------------------------------
    @property
    def has_dropped_copies(self) -> bool:
        """Whether there are copies to be deleted: the next `publish` goes on with it, whatever is staged."""
        return bool(self._dropped)

    def _note_dropped_copies(self, table: Table, changes: Changes, outcomes: Mapping[str, Outcome]) -> None:
        """Note the copies that a row names and will not name any more; and those that none has named, or will."""
        for user_id, outcome in outcomes.items():
            unnamed = (outcome.image,) if outcome.image_source and changes.rows[user_id] is None else ()
            self._dropped |= {f"{self._buckets.output}/{image}": user_id for image in (*outcome.dropped, *unnamed)}
        if self._has_copies:
            for user_id, row in changes.rows.items():
                before = table.output.get(user_id)
                path = before.img_path if before else ""
                if path.startswith(self._copies) and (row is None or row.img_path != path):
                    self._dropped[path] = user_id
        self._has_copies |= any(row and row.img_path.startswith(self._copies) for row in changes.rows.values())

    def _delete_copies(self, table: Table, token: str, batch: Mapping[str, Staged]) -> None:
        """Delete some of what no row names any more, as the writer, so that nobody is called clean meanwhile.

        Whoever else is dirty is read again: its image may be back, and its copy was made before this.
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

    # -- the manifest ------------------------------------------------------------------------------------------------
    def _memo(self) -> Manifest:
        if self._manifest is None:
            try:
                self._manifest = Manifest.decode(self._files.get(MANIFEST).body)
            except (ObjectNotFound, InvalidManifest) as error:
                logger.info("no manifest to begin with (%s); sweeps will read every file once", error)
                self._manifest = Manifest.empty()
        return self._manifest

    def _fact(self, user_id: str) -> Fact | None:
        return self._unwritten[user_id] if user_id in self._unwritten else self._memo().get(user_id)

    def manifest_due(self, *, idle: bool) -> bool:
        """Whether there is something new for the manifest, and it is a good time to write it."""
        return bool(self._unwritten) and (idle or self._clock() - self._manifest_written > MANIFEST_EVERY_S)

    def write_manifest(self) -> None:
        """Write the manifest, unconditionally: an older, newer or missing one does no harm.

        Raises `StoreUnavailable`.
        """
        merged = self._memo().merged(self._unwritten)
        self._store.put(MANIFEST, merged.encode())
        self._manifest, self._unwritten, self._manifest_written = merged, {}, self._clock()


def merge(
    table: Table, outcomes: Mapping[str, Outcome], fact: Callable[[str], Fact | None], buckets: Buckets
) -> Changes:
    """What these outcomes change.  Pure but for `fact`, which tells what a user's last valid CSV said.

    A valid CSV makes the row and closes the reject; no CSV leaves neither; an invalid one is a reject and keeps the row
    that is published, but for the image, until it is fixed or deleted.
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
    """Whether a user is dirty by nothing but what is being published."""
    return staged is not None and note.mark + b"|" + note.slot == staged.tokens


def _changed_users(table: Table, changes: Changes) -> set[str]:
    """Those whose row or reject will be another one than it is."""
    rows = (user_id for user_id, row in changes.rows.items() if row != table.output.get(user_id))
    return {*rows, *(user_id for user_id, reject in changes.rejects.items() if reject != table.rejects.get(user_id))}


def _reject(user_id: str, csv: InvalidCsv, known: Reject | None) -> Reject:
    # The same bytes copied onto themselves are no new reject.
    since = known.since if known and known.etag == csv.version.etag else csv.version.since
    return Reject(csv.version.source, user_id, csv.reason, csv.line, since, csv.version.etag)


def _held_fact(row: Row, outcome: Outcome, known: Fact | None) -> Fact:
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
        logger.warning("rejects.csv was edited by hand (%s); making it anew", error)
        return {}
