"""The rules of the state protocol, and for each one the parts of a pipeline without it.

`tests/faults/test_rules.py` shows that the oracle detects each removal. A rule is removed by an
edited copy of a Lua script, or by an altered port of one process. No file of the product changes.
An edit fails if its text is not in the script exactly once.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

from shared.formats.manifest import Fact, Manifest
from shared.formats.object_names import MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OutputCsv
from shared.formats.records import CsvVersion, Person, ReadResult
from shared.object_store import (
    ObjectNotFound,
    ObjectStore,
    StoredObject,
    StoreUnavailable,
)
from shared.redis_keys import CHANGE_VERSIONS, FAST_EVENTS, READ_VERSIONS, TRUST_STATE
from tests.fakes import DelegatingStore
from tests.faults.parts import Components, ScriptEdits
from tests.faults.stepped_ports import SteppedEventInbox, SteppedStore
from worker.services.state_parts import StateParts
from worker.source.metrics import MinioMetrics
from worker.state.event_inbox import DecodedEntry
from worker.state.loss_signals import LossSignals, TrustState
from worker.state.publish_queue import PendingResult, PublishInput, PublishQueue
from worker.state.user_states import ReadBatch, UserStates, VersionTokens

REMOVALS: dict[str, type[Components]] = {}
"""Maps each rule's sentence to the parts without that rule."""


def register_removal(rule: str) -> Any:  # noqa: ANN401
    def register(components: type[Components]) -> type[Components]:
        REMOVALS[rule] = components
        return components

    return register


def register_script_edit(rule: str, script: str, *replacements: tuple[str, str]) -> None:
    class Edited(Components):
        edits: ClassVar[ScriptEdits] = {script: replacements}

    REMOVALS[rule] = Edited


# -- MARK ------------------------------------------------------------------------------------------
register_script_edit(
    "every mark renews the change version",
    "mark",
    (
        "redis.call('HSET', KEYS[2], user, change_version) == 1",
        "redis.call('HSETNX', KEYS[2], user, change_version) == 1",
    ),
)
register_script_edit(
    "only what was peeked is popped",
    "mark",
    ("redis.call('LINDEX', event_list, 0) == raw", "true"),
)


@register_removal("events are popped in the step that marks")
class _PopBeforeMark(Components):
    class Inbox(SteppedEventInbox):
        users: UserStates

        def mark_and_pop(self, entries: Sequence[DecodedEntry], now: float) -> list[str]:
            self._redis.lpop(FAST_EVENTS, len(entries))
            users = [user for entry in entries for user in entry.user_ids]
            self.users.mark(users, "event", now)
            return users

    @cached_property
    def listener_inbox(self) -> SteppedEventInbox:
        inbox = self.Inbox(self.redis, self.scripts)
        inbox.users = self.state.users
        return inbox


# -- BEGIN READ, read, SUBMIT RESULTS --------------------------------------------------------------
register_script_edit(
    "a result is refused if another was accepted since its tokens were read",
    "submit_results",
    (
        "if change_versions[n] and read_versions[n] == ARGV[i + 2] then",
        "if change_versions[n] then",
    ),
)
register_script_edit(
    "a result of a user that is not dirty is refused",
    "submit_results",
    (
        "      replies[n] = 'not_dirty'\n",
        "      redis.call('HSET', KEYS[2], user, new_version)\n"
        "      redis.call('HSET', KEYS[3], user, ARGV[i + 3])\n"
        "      redis.call('HSET', KEYS[4], user, ARGV[i + 1])\n"
        "      replies[n] = 'not_dirty'\n",
    ),
)


@register_removal("version tokens are read before the files")
class _ReadTokensAfterFiles(Components):
    class Users(UserStates):
        def submit_results(
            self,
            results: Sequence[tuple[VersionTokens, ReadResult]],
            *arguments: Any,  # noqa: ANN401
        ) -> list[str]:
            return super().submit_results(
                [
                    (self.dirty_tokens([result.user_id]).get(result.user_id, old_tokens), result)
                    for old_tokens, result in results
                ],
                *arguments,
            )

    @cached_property
    def refresher_state(self) -> StateParts:
        return self.state._replace(users=self.Users(self.redis, self.scripts))


@register_removal("a user stays dirty until published")
class _CleanBeforePublish(Components):
    class Users(UserStates):
        def begin_read(self, user_ids: Sequence[str], *arguments: Any) -> ReadBatch:  # noqa: ANN401
            read_batch = super().begin_read(user_ids, *arguments)
            if read_batch:
                self._redis.hdel(CHANGE_VERSIONS, *read_batch)
                self._redis.hdel(READ_VERSIONS, *read_batch)
            return read_batch

        def submit_results(
            self,
            results: Sequence[tuple[VersionTokens, ReadResult]],
            *arguments: Any,  # noqa: ANN401
        ) -> list[str]:
            for tokens, result in results:
                self._redis.hsetnx(CHANGE_VERSIONS, result.user_id, tokens.change_version)
                self._redis.hsetnx(READ_VERSIONS, result.user_id, tokens.read_version)
            return super().submit_results(results, *arguments)

    @cached_property
    def refresher_state(self) -> StateParts:
        return self.state._replace(users=self.Users(self.redis, self.scripts))


@register_removal("absent means NoSuchKey and nothing else")
class _OutageAsAbsence(Components):
    class Source(DelegatingStore):
        def get(
            self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
        ) -> StoredObject:
            try:
                return self.inner.get(key, if_none_match, max_bytes)
            except StoreUnavailable:
                raise ObjectNotFound(key) from None

        def exists(self, key: str) -> bool:
            with suppress(StoreUnavailable):
                return self.inner.exists(key)
            return False

    @cached_property
    def refresher_source(self) -> ObjectStore:
        return self.Source(self.source)


# -- PUBLISH ---------------------------------------------------------------------------------------
register_script_edit("there is one writer at a time", "acquire_writer", ("'NX', 'PX'", "'PX'"))
register_script_edit(
    "a writer verifies its lease at each chunk",
    "read_pending",
    ("if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end\n", ""),
)
register_script_edit(
    "a writer without the lease makes no user clean",
    "commit_publish",
    ("if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"),
)
register_script_edit(
    "a user marked after it was read stays dirty",
    "commit_publish",
    ("if is_last_read and change_versions[n] == ARGV[i + 1] then", "if true then"),
)


class _PublisherQueueComponents(Components):
    Queue: ClassVar[type[PublishQueue]]

    def create_publisher_state(self) -> StateParts:
        return self.state._replace(
            publish_queue=self.Queue(self.redis, self.scripts, self.state.loss_signals)
        )


class _PublisherOutputComponents(Components):
    Output: ClassVar[type[DelegatingStore]]

    def new_publisher_output(self) -> ObjectStore:
        return self.Output(self.output)


@register_removal("writes are conditional")
class _UnconditionalWrites(Components):
    class Output(SteppedStore):
        def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
            return self._write(key, lambda: self.inner.put(key, body), expected)

    def new_publisher_output(self) -> ObjectStore:
        output = self.Output.__new__(self.Output)
        vars(output).update(vars(self.output))
        return output


@register_removal("the batch is read after the published files")
class _ReadPendingBeforeFiles(_PublisherQueueComponents):
    class Queue(PublishQueue):
        _pending_at_start: Mapping[str, PendingResult]

        def acquire_writer(self, token: str) -> PublishInput | None:
            publish_input = super().acquire_writer(token)
            self._pending_at_start = publish_input.pending if publish_input else {}
            return publish_input

        def read_pending(self, token: str, cursor: bytes = b"0") -> dict[str, PendingResult]:
            return dict(self._pending_at_start)


@register_removal("a refused write discards the batch too")
class _KeepBatchAfterRefusal(_PublisherQueueComponents):
    class Queue(PublishQueue):
        _batch_in_hand: Mapping[str, PendingResult] | None = None
        _refused = False

        def acquire_writer(self, token: str) -> PublishInput | None:
            publish_input = super().acquire_writer(token)
            if publish_input and not self._refused:
                self._batch_in_hand = publish_input.pending
            return publish_input and publish_input._replace(pending=dict(self._batch_in_hand or {}))

        def read_pending(self, token: str, cursor: bytes = b"0") -> dict[str, PendingResult]:
            batch = super().read_pending(token, cursor)
            return dict(self._batch_in_hand or {}) if self._refused else batch

        def release_writer(self, token: str, *, signal_loss: bool) -> None:
            super().release_writer(token, signal_loss=signal_loss)
            self._refused = not signal_loss

        def commit_publish(self, *arguments: Any, **options: Any) -> int:  # noqa: ANN401
            self._refused = False
            return super().commit_publish(*arguments, **options)


@register_removal("an unchanged file is verified by its ETag")
class _SkipVerification(_PublisherOutputComponents):
    class Output(DelegatingStore):
        def __init__(self, store: ObjectStore) -> None:
            super().__init__(store)
            self._known: dict[str, str | None] = {}

        def get(
            self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
        ) -> StoredObject:
            stored = self.inner.get(key, if_none_match, max_bytes)
            self._known[key] = stored.etag
            return stored

        def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
            self._known[key] = self.inner.put_if_unchanged(key, body, expected)
            return str(self._known[key])

        def get_etag(self, key: str) -> str | None:
            return self._known[key] if key in self._known else self.inner.get_etag(key)


@register_removal("rejects.csv is written before any user becomes clean")
class _RejectsWithManifest(_PublisherOutputComponents):
    class Output(DelegatingStore):
        _deferred_rejects: bytes | None = None

        def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
            if key != REJECTS_KEY:
                return self.inner.put_if_unchanged(key, body, expected)
            self._deferred_rejects = body
            return hashlib.md5(body, usedforsecurity=False).hexdigest()

        def get_etag(self, key: str) -> str | None:
            if key == REJECTS_KEY and self._deferred_rejects is not None:
                return hashlib.md5(self._deferred_rejects, usedforsecurity=False).hexdigest()
            return self.inner.get_etag(key)

        def put(self, key: str, body: bytes) -> str:
            if self._deferred_rejects is not None:
                self.inner.put(REJECTS_KEY, self._deferred_rejects)
                self._deferred_rejects = None
            return self.inner.put(key, body)


@register_removal("loading a file that no publisher recorded is a loss signal")
class _IgnoreUnrecordedFiles(Components):
    class Signals(LossSignals):
        def add(self, kind: str) -> None:
            pass

    def create_publisher_state(self) -> StateParts:
        # The publish queue keeps the real loss signals, for an aborted publish.
        return self.state._replace(loss_signals=self.Signals(self.redis, self.scripts))


@register_removal("a lost output.csv is restored from the manifest")
class _StartWithEmptyTable(_PublisherOutputComponents):
    class Output(DelegatingStore):
        def get(
            self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
        ) -> StoredObject:
            if key == MANIFEST_KEY:
                raise ObjectNotFound(key)
            return self.inner.get(key, if_none_match, max_bytes)


# -- the sweep -------------------------------------------------------------------------------------
class _SweepStateComponents(Components):
    Users: ClassVar[type[UserStates]] = UserStates
    Signals: ClassVar[type[LossSignals]] = LossSignals

    @cached_property
    def sweep_state(self) -> StateParts:
        return self.state._replace(
            users=self.Users(self.redis, self.scripts),
            loss_signals=self.Signals(self.redis, self.scripts),
        )


@register_removal("a sweep marks dirty users again")
class _SkipDirtyUsers(_SweepStateComponents):
    class Users(UserStates):
        def dirty_users(self) -> set[str]:
            return set()


@register_removal("a sweep reads the dirty users after the LIST")
class _ReadDirtyBeforeList(_SweepStateComponents):
    class Users(UserStates):
        dirty_before: set[str]

        def read_dirty(self) -> None:
            self.dirty_before = super().dirty_users()

        def dirty_users(self) -> set[str]:
            return self.dirty_before

    class Signals(LossSignals):
        read_dirty: Callable[[], None]

        def begin_sweep(self, token: str) -> set[str]:
            self.read_dirty()
            return super().begin_sweep(token)

    @cached_property
    def sweep_state(self) -> StateParts:
        users = self.Users(self.redis, self.scripts)
        signals = self.Signals(self.redis, self.scripts)
        signals.read_dirty = users.read_dirty
        return self.state._replace(users=users, loss_signals=signals)


@register_removal("a sweep reads the dirty users before the published files")
class _ReadFilesBeforeDirty(_SweepStateComponents):
    class Users(UserStates):
        read_files: Any

        def dirty_users(self) -> set[str]:
            self.read_files()
            return super().dirty_users()

    class Output(DelegatingStore):
        def __init__(self, store: ObjectStore) -> None:
            super().__init__(store)
            self._stored_files: dict[str, StoredObject | None] = {}

        def read(self) -> None:
            for key in (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY):
                try:
                    self._stored_files[key] = self.inner.get(key)
                except ObjectNotFound:
                    self._stored_files[key] = None

        def get(
            self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
        ) -> StoredObject:
            if key not in (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY):
                return self.inner.get(key)
            stored = self._stored_files[key]
            if stored is None:
                raise ObjectNotFound(key)
            return stored

    @cached_property
    def sweep_output(self) -> ObjectStore:
        output = self.Output(self.output)
        self.sweep_state.users.read_files = output.read  # type: ignore[attr-defined]
        return output


register_script_edit(
    "a sweep commits only while the trust state holds its token",
    "commit_sweep",
    ("if redis.call('HGET', KEYS[1], 'sweep_token') ~= ARGV[1] then return 0 end\n", ""),
)


@register_removal("the trust state becomes verified at the end of the sweep")
class _VerifyAtSweepStart(_SweepStateComponents):
    class Signals(LossSignals):
        def begin_sweep(self, token: str, *arguments: Any) -> Any:  # noqa: ANN401
            answer = super().begin_sweep(token, *arguments)
            self._redis.hset(TRUST_STATE, mapping=TrustState("verified", self.run_id())._asdict())
            return answer


register_script_edit(
    "a sweep records the compared files as published",
    "commit_sweep",
    ("  redis.call('HSET', KEYS[2], 'output_etag', ARGV[3], 'rejects_etag', ARGV[4])\n", ""),
)
register_script_edit(
    "… but only if no publisher recorded anything since the LIST",
    "commit_sweep",
    ("(redis.call('HGET', KEYS[2], 'writer_token') or '') == ARGV[2] and ", ""),
)


@register_removal("MinIO's metrics are read before the LIST")
class _MetricsAfterList(_SweepStateComponents):
    class Signals(LossSignals):
        metrics: MinioMetrics

        def commit_sweep(
            self,
            token: str,
            by: str | None,
            compared: tuple[str | None, str | None],
            run_id: str,
            record: Mapping[str, Any],
        ) -> bool:
            late = {**record, "metrics": self.metrics.read() or ""}
            return super().commit_sweep(token, by, compared, run_id, late)

    @cached_property
    def sweep_state(self) -> StateParts:
        signals = self.Signals(self.redis, self.scripts)
        signals.metrics = self.minio_metrics
        return self.state._replace(loss_signals=signals)


class _AlteredManifestStore(DelegatingStore):
    source: ObjectStore

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        stored = self.inner.get(key, if_none_match, max_bytes)
        if key != MANIFEST_KEY:
            return stored
        facts = list(Manifest.decode(stored.body).iterate_facts())
        changes = {fact.user_id: self.alter_fact(fact) for fact in facts}
        return stored._replace(body=Manifest.empty().with_changes(changes).encode())

    def alter_fact(self, fact: Fact) -> Fact:
        raise NotImplementedError


class _SweepManifestComponents(Components):
    Output: ClassVar[type[_AlteredManifestStore]]

    @cached_property
    def sweep_output(self) -> ObjectStore:
        output = self.Output(self.output)
        output.source = self.source
        return output


@register_removal("a fact counts only if its fields are those of the published row")
class _IgnoreFields(_SweepManifestComponents):
    class Output(_AlteredManifestStore):
        def alter_fact(self, fact: Fact) -> Fact:
            try:
                row = OutputCsv.repair(self.inner.get(OUTPUT_KEY).body).get(fact.user_id)
            except ObjectNotFound:
                row = None
            names = Person(row.first_name, row.last_name, row.birthts) if row else fact.person
            return Fact(fact.user_id, fact.csv_version, names, fact.image, fact.is_held)


@register_removal("a fact counts only if its ETag is that of the CSV")
class _IgnoreEtag(_SweepManifestComponents):
    class Output(_AlteredManifestStore):
        def alter_fact(self, fact: Fact) -> Fact:
            etag = self.source.get_etag(f"{fact.user_id}.csv") or ""
            version = CsvVersion(fact.csv_version.source, etag, fact.csv_version.last_modified)
            return Fact(fact.user_id, version, fact.person, fact.image, fact.is_held)


# -- loss signals ----------------------------------------------------------------------------------
@register_removal("a restart of Redis is a loss signal")
class _IgnoreRunId(Components):
    class Signals(LossSignals):
        def run_id(self) -> str:
            trust_state = self.trust_state()
            return (trust_state and trust_state.run_id) or ""

    @cached_property
    def watchdog_state(self) -> StateParts:
        return self.state._replace(loss_signals=self.Signals(self.redis, self.scripts))


@register_removal("overdue users are enqueued again")
class _IgnoreOverdueUsers(Components):
    class Users(UserStates):
        def overdue_users(self, *_: Any, **__: Any) -> list[str]:  # noqa: ANN401
            return []

    @cached_property
    def watchdog_state(self) -> StateParts:
        return self.state._replace(users=self.Users(self.redis, self.scripts))


@register_removal("files that no publisher recorded are a loss signal")
class _SkipFileCheck(Components):
    class Output(DelegatingStore):
        publish_queue: PublishQueue

        def get_etag(self, key: str) -> str | None:
            recorded = self.publish_queue.last_publish()
            return {OUTPUT_KEY: recorded.output_etag, REJECTS_KEY: recorded.rejects_etag}.get(key)

    @cached_property
    def watchdog_output(self) -> ObjectStore:
        output = self.Output(self.output)
        output.publish_queue = self.state.publish_queue
        return output


@register_removal("MinIO's restart and its lost events are loss signals")
class _IgnoreMetrics(Components):
    class NoMetrics(MinioMetrics):
        def __init__(self) -> None:
            pass

        def read(self) -> str | None:
            return None

    @cached_property
    def watchdog_metrics(self) -> MinioMetrics:
        return self.NoMetrics()
