"""Rowdrop's own parts, built as in `worker/services/`, on ports that pause before each request.

A subclass that builds one part differently removes a protocol rule: see `tests/faults/removals.py`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

from redis.commands.core import Script

from shared.object_store import ObjectStore
from shared.progress.job_records import JobRecords, build_records
from shared.scripts import Scripts, read_script
from shared.settings import Settings
from tests.fakes import FakeTaskQueue, InlineExecutor
from tests.faults.stepped_ports import SteppedEventInbox, SteppedRedis
from worker.bundles.lookup import BundleLookup
from worker.jobs.bulk_reads import BulkReads
from worker.jobs.rebuild import Rebuild
from worker.jobs.sweep import Sweep
from worker.jobs.unpacker import Unpacker
from worker.listener import Listener
from worker.publishing.publisher import Publisher
from worker.reading.image_copies import ImageCopies
from worker.reading.isolated_reads import IsolatedReads
from worker.reading.parallel import ParallelCalls
from worker.reading.refresher import Refresher
from worker.reading.user_reader import UserReader
from worker.services.builders import (
    build_bulk_reads,
    build_publisher,
    build_readers,
    build_rebuild,
    build_sweep,
    build_unpacker,
)
from worker.services.state_parts import StateParts, build_state
from worker.services.watchdog_builder import build_checks
from worker.source.ignored_keys import IgnoredKeys
from worker.source.metrics import MinioMetrics
from worker.state.schema_upgrade import upgrade_schema
from worker.watchdog.watchdog import Watchdog

READER_COUNT = 8

ScriptEdits = Mapping[str, Sequence[tuple[str, str]]]
"""Name of a Lua script -> replacements in it, as pairs (old, new)."""


@dataclass
class WorkerComponents:
    """The objects that belong to one worker process.

    What it caches of bundles is not shared with other processes.
    """

    refresher: Refresher
    isolated_reads: IsolatedReads
    bulk: BulkReads
    sweep: Sweep
    rebuild: Rebuild
    unpacker: Unpacker


class Components:
    """The parts of one history."""

    edits: ClassVar[ScriptEdits] = {}

    def __init__(
        self,
        redis: SteppedRedis,
        source: ObjectStore,
        output: ObjectStore,
        minio_metrics: MinioMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.redis = redis
        self.source = source
        self.output = output
        self.minio_metrics = minio_metrics
        self.clock = clock
        self.settings = Settings("http://not.used", "", "", "", source.bucket, output.bucket)
        self._idle_workers: list[WorkerComponents] = []

    def enable_image_copies(self) -> None:
        """Set IMAGES=copy. Call it before any part is built."""
        self.settings = replace(self.settings, copy_images=True)

    # -- Redis -------------------------------------------------------------------------------------
    @cached_property
    def scripts(self) -> Scripts:
        """The Lua scripts, edited if a rule is removed."""
        edited = {
            name: edit_script_text(self.redis, name, edits) for name, edits in self.edits.items()
        }
        return Scripts(self.redis, edited)

    @cached_property
    def state(self) -> StateParts:
        return build_state(self.redis, self.scripts)

    @cached_property
    def tasks(self) -> FakeTaskQueue:
        return FakeTaskQueue(self.redis)

    @cached_property
    def records(self) -> JobRecords:
        return build_records(self.redis)

    @cached_property
    def ignored_keys(self) -> IgnoredKeys:
        return IgnoredKeys(self.redis)

    def list_scripts(self) -> list[Script]:
        """Return the Lua scripts that belong to this history."""
        parts = (*self.state, *self.records)
        return [
            value for part in parts for value in vars(part).values() if isinstance(value, Script)
        ]

    # -- the ports of one process each, so that a removal can alter them alone ---------------------
    @cached_property
    def listener_inbox(self) -> SteppedEventInbox:
        return SteppedEventInbox(self.redis, self.scripts)

    @cached_property
    def refresher_state(self) -> StateParts:
        return self.state

    @cached_property
    def refresher_source(self) -> ObjectStore:
        return self.source

    def create_publisher_state(self) -> StateParts:
        return self.state

    def new_publisher_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def sweep_state(self) -> StateParts:
        return self.state

    @cached_property
    def sweep_source(self) -> ObjectStore:
        return self.source

    @cached_property
    def sweep_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def watchdog_state(self) -> StateParts:
        return self.state

    @cached_property
    def watchdog_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def watchdog_metrics(self) -> MinioMetrics:
        return self.minio_metrics

    # -- the processes -----------------------------------------------------------------------------
    @contextmanager
    def borrow_worker(self) -> Iterator[WorkerComponents]:
        """Provide an idle worker, which is reused afterwards unless it is killed."""
        worker = self._idle_workers.pop() if self._idle_workers else self._create_worker()
        try:
            yield worker
        except (
            Exception
        ):  # a worker survives an error; only `ProcessKilled` (a BaseException) ends it
            self._idle_workers.append(worker)
            raise
        self._idle_workers.append(worker)

    def _create_worker(self) -> WorkerComponents:
        clock = self.clock
        source = self.source
        output = self.output
        state = self.state
        bundles = BundleLookup(output, state.catalog_version, state.users, clock)
        copies = ImageCopies(source, output, all_images=self.settings.copy_images)
        pool = InlineExecutor()
        user_reader = UserReader(
            self.refresher_source, ParallelCalls(pool, READER_COUNT), bundles, copies
        )
        refresher, isolated_reads = build_readers(user_reader, self.refresher_state)
        bulk = build_bulk_reads(source, state, refresher, self.tasks)
        sweep_source = self.sweep_source
        sweep_output = self.sweep_output
        sweep_state = self.sweep_state
        sweep = build_sweep(
            sweep_source,
            sweep_output,
            sweep_state,
            self.records,
            bulk,
            self.ignored_keys,
            self.minio_metrics,
            BundleLookup(sweep_output, sweep_state.catalog_version, sweep_state.users, clock),
            copies,
            clock,
            wait=lambda _: None,
        )
        rebuild = build_rebuild(output, state, self.records, bulk, self.tasks, bundles, clock)
        unpacker = build_unpacker(source, output, state, self.records, bulk, pool, clock=clock)
        return WorkerComponents(refresher, isolated_reads, bulk, sweep, rebuild, unpacker)

    @cached_property
    def rebuild(self) -> Rebuild:
        """Return the publisher's `Rebuild`, which finishes rebuilds."""
        with self.borrow_worker() as worker:
            return worker.rebuild

    def create_listener(self) -> Listener:
        return Listener(
            self.listener_inbox,
            self.tasks,
            self.ignored_keys,
            self.source.bucket,
            self.clock,
        )

    def create_publisher(self) -> Publisher:
        output = self.new_publisher_output()
        state = self.create_publisher_state()
        lease = self.records.unpack_lease
        return build_publisher(output, state, lease, self.source.bucket, self.clock).publisher

    def create_watchdog(self) -> Watchdog:
        state = self.watchdog_state
        output = self.watchdog_output
        minio_metrics = self.watchdog_metrics
        interval_s = self.settings.sweep_interval_s
        checks = build_checks(state, self.records, output, self.tasks, minio_metrics, interval_s)
        upgrade = partial(upgrade_schema, self.redis)
        return Watchdog(checks.list_all(), self.records.sweeps, self.tasks, upgrade, self.clock)


def edit_script_text(
    redis: SteppedRedis, name: str, replacements: Sequence[tuple[str, str]]
) -> str:
    """Return a script with the replacements applied.

    Raises `AssertionError` unless each old text occurs exactly once: the script has changed, so the
    removal must be adapted.
    """
    text = read_script(name)
    for old, new in replacements:
        assert text.count(old) == 1, (
            f"{name}.lua: expected {old!r} exactly once, found it {text.count(old)} times"
        )
        text = text.replace(old, new)
    redis.aliases[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = name.upper()
    return text
