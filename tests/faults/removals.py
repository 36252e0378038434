"""The rules of the state protocol, and for each one the parts of a pipeline without it.

`tests/faults/test_rules.py` shows that the oracle detects each removal. A rule is removed by an
edited copy of a Lua script, or by an altered port of one process. No file of the product changes.
An edit fails if its text is not in the script exactly once.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

from shared.manifest import Fact, Manifest
from shared.object_store import ObjectInfo, ObjectNotFound, ObjectStore, StoredObject, StoreUnavailable
from shared.output_csv import OutputCsv
from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.records import CsvVersion, Outcome, Person
from tests.faults.parts import Edits, Parts
from tests.faults.stepped import SteppedBacklog, SteppedStore
from worker.backlog import Begun, Note, Notes, Notice, Staged
from worker.server_figures import ServerFigures

REMOVALS: dict[str, type[Parts]] = {}
"""Maps each rule's sentence to the parts without that rule."""


def _removes(rule: str) -> Any:  # noqa: ANN401
    def register(parts: type[Parts]) -> type[Parts]:
        REMOVALS[rule] = parts
        return parts

    return register


def _edit(rule: str, script: str, *replacements: tuple[str, str]) -> None:
    class Edited(Parts):
        edits: ClassVar[Edits] = {script: replacements}

    REMOVALS[rule] = Edited


class _Through(ObjectStore):
    """Passes all requests on to another store. Subclasses alter some of them."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.bucket = store, store.bucket

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        return self.store.get(key, if_none_match, most)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def check_readable(self, key: str) -> None:
        self.store.check_readable(key)

    def listed(self, key: str) -> ObjectInfo | None:
        return self.store.listed(key)

    def last_modified(self, key: str) -> int:
        return self.store.last_modified(key)

    def etag(self, key: str) -> str | None:
        return self.store.etag(key)

    def info(self, key: str) -> ObjectInfo | None:
        return self.store.info(key)

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        return self.store.get_range(key, etag, start, end)

    def put(self, key: str, body: bytes) -> str:
        return self.store.put(key, body)

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        return self.store.replace(key, body, expected)

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        self.store.copy_from(bucket, key, to)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        self.store.delete_many(keys)

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        return self.store.objects(after, folder)

    def folders(self, folder: str) -> list[str]:
        return self.store.folders(folder)


# -- MARK ------------------------------------------------------------------------------------------
_edit(
    "every mark renews the change version",
    "mark",
    (
        "redis.call('HSET', dirty, user, token .. '|' .. slot)",
        "redis.call('HSET', dirty, user, old or token .. '|' .. slot)",
    ),
)
_edit(
    "only what was peeked is popped",
    "mark",
    ("redis.call('LINDEX', list, 0) == raw", "true"),
)
_edit(
    "safe copies are counted",
    "mark",
    ("if count > 1 then", "if false then"),
    ("elseif count == 1 then", "elseif false then"),
)


@_removes("events are popped in the step that marks")
class _PopsFirst(Parts):
    class Backlog(SteppedBacklog):
        def note_events(self, source: str, notices: Sequence[Notice], now: float) -> list[str]:
            self.redis.lpop(source, len(notices))
            users = [user for notice in notices for user in notice.user_ids]
            self.mark(users, "event", now)
            return users

    @cached_property
    def listener_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


# -- NOTE, read, STAGE -----------------------------------------------------------------------------
_edit(
    "a result is refused if another was accepted since its tokens were read",
    "stage",
    ("elseif string.match(now, '|(.*)$') ~= slot then", "elseif false then"),
)
_edit(
    "a result of a user that is not dirty is refused",
    "stage",
    (
        "    answers[#answers + 1] = 'gone'\n",
        "    redis.call('HSET', staged, user, ARGV[i + 1] .. '|' .. token .. '|' .. outcome)\n"
        "    answers[#answers + 1] = 'gone'\n",
    ),
)


@_removes("version tokens are read before the files")
class _NotesAfterReading(Parts):
    class Backlog(SteppedBacklog):
        def stage(self, readings: Sequence[tuple[Note, Outcome]], *arguments: Any) -> list[str]:  # noqa: ANN401
            return super().stage([(self._tokens(read.user_id) or note, read) for note, read in readings], *arguments)

        def _tokens(self, user_id: str) -> Note | None:
            tokens = self.redis.hget("dirty", user_id)
            return tokens and Note(*tokens.split(b"|", 1))

    @cached_property
    def refresher_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


@_removes("a user stays dirty until published")
class _CleanWhenRead(Parts):
    class Backlog(SteppedBacklog):
        def note(self, user_ids: Sequence[str], *arguments: Any) -> Notes:  # noqa: ANN401
            notes = super().note(user_ids, *arguments)
            if notes:
                self.redis.hdel("dirty", *notes)
            return notes

        def stage(self, readings: Sequence[tuple[Note, Outcome]], *arguments: Any) -> list[str]:  # noqa: ANN401
            for note, read in readings:
                self.redis.hsetnx("dirty", read.user_id, note.mark + b"|" + note.slot)
            return super().stage(readings, *arguments)

    @cached_property
    def refresher_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


@_removes("absent means NoSuchKey and nothing else")
class _OutageIsAbsence(Parts):
    class Source(_Through):
        def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
            try:
                return super().get(key, if_none_match, most)
            except StoreUnavailable:
                raise ObjectNotFound(key) from None

        def exists(self, key: str) -> bool:
            with suppress(StoreUnavailable):
                return super().exists(key)
            return False

    @cached_property
    def refresher_source(self) -> ObjectStore:
        return self.Source(self.source)


# -- PUBLISH ---------------------------------------------------------------------------------------
_edit("there is one writer at a time", "begin", ("'NX', 'PX'", "'PX'"))
_edit(
    "a writer verifies its lease at each chunk",
    "batch",
    ("if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end\n", ""),
)
_edit(
    "a writer without the lease makes no user clean",
    "clean",
    ("if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"),
)
_edit(
    "a user marked after it was read stays dirty",
    "clean",
    ("if redis.call('HGET', KEYS[4], user) == tokens then", "if true then"),
)


class _PublisherBacklog(Parts):
    Backlog: ClassVar[type[SteppedBacklog]]

    def new_publisher_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


class _PublisherOutput(Parts):
    Output: ClassVar[type[_Through]]

    def new_publisher_output(self) -> ObjectStore:
        return self.Output(self.output)


@_removes("writes are conditional")
class _Unconditional(Parts):
    class Output(SteppedStore):
        def replace(self, key: str, body: bytes, expected: str | None) -> str:
            return self._write(key, lambda: self.inner.put(key, body), expected)

    def new_publisher_output(self) -> ObjectStore:
        output = self.Output.__new__(self.Output)
        vars(output).update(vars(self.output))
        return output


@_removes("the batch is read after the published files")
class _BatchBeforeFiles(_PublisherBacklog):
    class Backlog(SteppedBacklog):
        _begun: Mapping[str, Staged]

        def begin(self, token: str) -> Begun | None:
            begun = super().begin(token)
            self._begun = begun.batch if begun else {}
            return begun

        def batch(self, token: str, cursor: bytes = b"0") -> dict[str, Staged]:
            return dict(self._begun)


@_removes("a refused write discards the batch too")
class _KeepsTheBatch(_PublisherBacklog):
    class Backlog(SteppedBacklog):
        _batch_in_hand: Mapping[str, Staged] | None = None
        _refused = False

        def begin(self, token: str) -> Begun | None:
            begun = super().begin(token)
            if begun and not self._refused:
                self._batch_in_hand = begun.batch
            return begun and begun._replace(batch=dict(self._batch_in_hand or {}))

        def batch(self, token: str, cursor: bytes = b"0") -> dict[str, Staged]:
            batch = super().batch(token, cursor)
            return dict(self._batch_in_hand or {}) if self._refused else batch

        def release(self, token: str, *, evidence: bool) -> None:
            super().release(token, evidence=evidence)
            self._refused = not evidence

        def clean(self, *arguments: Any, **options: Any) -> int:  # noqa: ANN401
            self._refused = False
            return super().clean(*arguments, **options)


@_removes("an unchanged file is verified by its ETag")
class _NoLook(_PublisherOutput):
    class Output(_Through):
        def __init__(self, store: ObjectStore) -> None:
            super().__init__(store)
            self._known: dict[str, str | None] = {}

        def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
            stored = super().get(key, if_none_match, most)
            self._known[key] = stored.etag
            return stored

        def replace(self, key: str, body: bytes, expected: str | None) -> str:
            self._known[key] = super().replace(key, body, expected)
            return str(self._known[key])

        def etag(self, key: str) -> str | None:
            return self._known[key] if key in self._known else super().etag(key)


@_removes("rejects.csv is written before any user becomes clean")
class _RejectsWithTheMemo(_PublisherOutput):
    class Output(_Through):
        _unwritten: bytes | None = None

        def replace(self, key: str, body: bytes, expected: str | None) -> str:
            if key != REJECTS:
                return super().replace(key, body, expected)
            self._unwritten = body
            return hashlib.md5(body, usedforsecurity=False).hexdigest()

        def etag(self, key: str) -> str | None:
            if key == REJECTS and self._unwritten is not None:
                return hashlib.md5(self._unwritten, usedforsecurity=False).hexdigest()
            return super().etag(key)

        def put(self, key: str, body: bytes) -> str:
            if self._unwritten is not None:
                super().put(REJECTS, self._unwritten)
                self._unwritten = None
            return super().put(key, body)


@_removes("loading a file that no publisher recorded is a loss signal")
class _LoadsAnything(_PublisherBacklog):
    class Backlog(SteppedBacklog):
        _releasing = False

        def release(self, token: str, *, evidence: bool) -> None:
            self._releasing = True
            super().release(token, evidence=evidence)
            self._releasing = False

        def add_evidence(self, cause: Any) -> None:  # noqa: ANN401
            if self._releasing:
                super().add_evidence(cause)


@_removes("a lost output.csv is restored from the manifest")
class _BeginsEmpty(_PublisherOutput):
    class Output(_Through):
        def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
            if key == MANIFEST:
                raise ObjectNotFound(key)
            return super().get(key, if_none_match, most)


# -- the sweep -------------------------------------------------------------------------------------
class _SweepBacklog(Parts):
    Backlog: ClassVar[type[SteppedBacklog]]

    @cached_property
    def sweep_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


@_removes("a sweep marks dirty users again")
class _DirtyAreLeft(_SweepBacklog):
    class Backlog(SteppedBacklog):
        def dirty_users(self) -> set[str]:
            return set()


@_removes("a sweep reads the dirty users after the LIST")
class _DirtyBeforeList(_SweepBacklog):
    class Backlog(SteppedBacklog):
        _dirty: set[str]

        def begin_sweep(self, token: str, *arguments: Any) -> Any:  # noqa: ANN401
            self._dirty = super().dirty_users()
            return super().begin_sweep(token, *arguments)

        def dirty_users(self) -> set[str]:
            return self._dirty


@_removes("a sweep reads the dirty users before the published files")
class _FilesBeforeDirty(_SweepBacklog):
    class Backlog(SteppedBacklog):
        read_files: Any

        def dirty_users(self) -> set[str]:
            self.read_files()
            return super().dirty_users()

    class Output(_Through):
        def __init__(self, store: ObjectStore) -> None:
            super().__init__(store)
            self._read: dict[str, StoredObject | None] = {}

        def read(self) -> None:
            for key in (OUTPUT, REJECTS, MANIFEST):
                try:
                    self._read[key] = self.store.get(key)
                except ObjectNotFound:
                    self._read[key] = None

        def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
            if key not in (OUTPUT, REJECTS, MANIFEST):
                return super().get(key)
            found = self._read[key]
            if found is None:
                raise ObjectNotFound(key)
            return found

    @cached_property
    def sweep_output(self) -> ObjectStore:
        output = self.Output(self.output)
        self.sweep_backlog.read_files = output.read  # type: ignore[attr-defined]
        return output


_edit(
    "a sweep commits only while the trust state holds its token",
    "commit",
    ("if redis.call('GET', KEYS[1]) ~= 's:' .. ARGV[1] then return 0 end\n", ""),
)


@_removes("the trust state becomes verified at the end of the sweep")
class _EpochAtOnce(_SweepBacklog):
    class Backlog(SteppedBacklog):
        def begin_sweep(self, token: str, *arguments: Any) -> Any:  # noqa: ANN401
            answer = super().begin_sweep(token, *arguments)
            self.redis.set("epoch", f"ok:{self.run_id()}")
            return answer


_edit(
    "a sweep records the compared files as published",
    "commit",
    ("  redis.call('HSET', KEYS[2], 'etag', ARGV[3], 'rej_etag', ARGV[4])\n", ""),
)
_edit(
    "… but only if no publisher recorded anything since the LIST",
    "commit",
    ("(redis.call('HGET', KEYS[2], 'by') or '') == ARGV[2] and ", ""),
)


@_removes("MinIO's metrics are read before the LIST")
class _FiguresAtTheEnd(_SweepBacklog):
    class Backlog(SteppedBacklog):
        figures: ServerFigures

        def commit_sweep(
            self,
            token: str,
            by: str | None,
            compared: tuple[str | None, str | None],
            run_id: str,
            record: Mapping[str, Any],
        ) -> bool:
            late = {**record, "figures": self.figures.read() or ""}
            return super().commit_sweep(token, by, compared, run_id, late)

    @cached_property
    def sweep_backlog(self) -> SteppedBacklog:
        backlog = self.edit(self.Backlog(self.redis))
        backlog.figures = self.figures
        return backlog


class _AlteredMemo(_Through):
    source: ObjectStore

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        stored = super().get(key, if_none_match, most)
        if key != MANIFEST:
            return stored
        facts = list(Manifest.decode(stored.body).facts())
        changes = {fact.user_id: self.altered(fact) for fact in facts}
        return stored._replace(body=Manifest.empty().merged(changes).encode())

    def altered(self, fact: Fact) -> Fact:
        raise NotImplementedError


class _SweepMemo(Parts):
    Output: ClassVar[type[_AlteredMemo]]

    @cached_property
    def sweep_output(self) -> ObjectStore:
        output = self.Output(self.output)
        output.source = self.source
        return output


@_removes("a fact counts only if its fields are those of the published row")
class _FieldsLeftAside(_SweepMemo):
    class Output(_AlteredMemo):
        def altered(self, fact: Fact) -> Fact:
            try:
                row = OutputCsv.repair(self.store.get(OUTPUT).body).get(fact.user_id)
            except ObjectNotFound:
                row = None
            names = Person(row.first_name, row.last_name, row.birthts) if row else fact.person
            return Fact(fact.user_id, fact.version, names, fact.image, fact.held)


@_removes("a fact counts only if its ETag is that of the CSV")
class _EtagLeftAside(_SweepMemo):
    class Output(_AlteredMemo):
        def altered(self, fact: Fact) -> Fact:
            etag = self.source.etag(f"{fact.user_id}.csv") or ""
            version = CsvVersion(fact.version.source, etag, fact.version.since)
            return Fact(fact.user_id, version, fact.person, fact.image, fact.held)


# -- loss signals ----------------------------------------------------------------------------------
class _WatchBacklog(Parts):
    Backlog: ClassVar[type[SteppedBacklog]]

    @cached_property
    def watch_backlog(self) -> SteppedBacklog:
        return self.edit(self.Backlog(self.redis))


@_removes("a restart of Redis is a loss signal")
class _AnyRun(_WatchBacklog):
    class Backlog(SteppedBacklog):
        def run_id(self) -> str:
            return (self.epoch() or "").removeprefix("ok:")


@_removes("overdue users are enqueued again")
class _NobodyIsOverdue(_WatchBacklog):
    class Backlog(SteppedBacklog):
        def overdue(self, *_: Any, **__: Any) -> list[str]:  # noqa: ANN401
            return []


@_removes("files that no publisher recorded are a loss signal")
class _NoHead(Parts):
    class Output(_Through):
        backlog: SteppedBacklog

        def etag(self, key: str) -> str | None:
            recorded = self.backlog.published()
            return {OUTPUT: recorded.etag, REJECTS: recorded.rej_etag}.get(key)

    @cached_property
    def watch_output(self) -> ObjectStore:
        output = self.Output(self.output)
        output.backlog = self.backlog
        return output


@_removes("MinIO's restart and its lost events are loss signals")
class _NoFigures(Parts):
    class Figures(ServerFigures):
        def __init__(self) -> None:
            pass

        def read(self) -> str | None:
            return None

    @cached_property
    def watch_figures(self) -> ServerFigures:
        return self.Figures()
