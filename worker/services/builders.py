"""Functions that build the parts of a process from other parts.

The tests call them with parts of their own. Modules that need pandas, pyarrow or minio are imported
on first use: a process that reads single drops does not need their 60 MB.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from shared.formats.records import Buckets
from shared.object_store import ObjectStore
from shared.progress.job_records import JobRecords
from shared.progress.leases import Lease
from shared.task_queue import TaskQueue
from worker.bundles.catalog import DEFAULT_RULES, BundleRules, CatalogWriter
from worker.bundles.lookup import BundleLookup
from worker.bundles.unpacked_folders import DEFAULT_MAX_BYTES, UnpackedFolders
from worker.jobs.bulk_reads import MAX_PAGE_USERS, BulkReads, PageBuilder
from worker.reading.csv_parsing import CsvParser, parse_csv
from worker.reading.image_copies import ImageCopies
from worker.reading.isolated_reads import IsolatedReads
from worker.reading.refresher import Refresher
from worker.reading.source_health import SourceHealth
from worker.reading.user_reader import UserReader
from worker.services.state_parts import StateParts
from worker.source.ignored_keys import IgnoredKeys

if TYPE_CHECKING:
    from worker.jobs.rebuild import Rebuild
    from worker.jobs.sweep import Sweep
    from worker.jobs.unpacker import Unpacker
    from worker.publishing.object_recovery import ObjectRecovery
    from worker.publishing.publisher import Publisher
    from worker.source.metrics import MinioMetrics


class Readers(NamedTuple):
    """The two ways to read users and submit the results."""

    refresher: Refresher
    isolated_reads: IsolatedReads


def build_readers(
    user_reader: UserReader,
    state: StateParts,
    deadline: AbstractContextManager[None] | None = None,
) -> Readers:
    """Return what reads users by `user_reader`. `deadline` is entered for each read."""
    health = SourceHealth(state.status)
    refresher = Refresher(state.users, state.status, user_reader, health, deadline)
    isolated_reads = IsolatedReads(refresher, user_reader, health, state.users, state.attempts)
    return Readers(refresher, isolated_reads)


def build_bulk_reads(
    source: ObjectStore,
    state: StateParts,
    refresher: Refresher,
    tasks: TaskQueue,
    max_page_users: int = MAX_PAGE_USERS,
) -> BulkReads:
    """Return the maker and reader of pages, of these parts."""
    page_builder = PageBuilder(source, state.users, max_page_users)
    return BulkReads(page_builder, refresher, state.work_queues, state.attempts, tasks)


def build_sweep(
    source: ObjectStore,
    output: ObjectStore,
    state: StateParts,
    records: JobRecords,
    bulk_reads: BulkReads,
    ignored_keys: IgnoredKeys,
    metrics: "MinioMetrics",
    bundle_lookup: BundleLookup,
    image_copies: ImageCopies,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
    bundle_rules: BundleRules = DEFAULT_RULES,
) -> "Sweep":
    """Return a sweep of these parts. `wait` sleeps for a number of seconds."""
    from worker.jobs.comparison import (  # noqa: PLC0415
        BucketComparison,
        BucketLister,
        EventPause,
    )
    from worker.jobs.sweep import FindingsRecorder, Sweep, SweepSession  # noqa: PLC0415

    lister = BucketLister(source, output, state.status, records.sweeps.lease.renew)
    return Sweep(
        SweepSession(records.sweeps, state.loss_signals, state.publish_queue, metrics, clock),
        BucketComparison(
            lister, state.users, bundle_lookup, image_copies, EventPause(state.inbox, wait)
        ),
        FindingsRecorder(state.users, state.attempts, records.unpacks, ignored_keys, clock),
        bulk_reads,
        UnpackedFolders(output, records.unpack_lease, rules=bundle_rules),
    )


def build_rebuild(
    output: ObjectStore,
    state: StateParts,
    records: JobRecords,
    bulk_reads: BulkReads,
    tasks: TaskQueue,
    bundle_lookup: BundleLookup,
    clock: Callable[[], float] = time.time,
) -> "Rebuild":
    """Return a rebuild of these parts."""
    from worker.jobs.rebuild import Rebuild, RebuildScope  # noqa: PLC0415

    scope = RebuildScope(output, state.users, bundle_lookup, state.attempts, clock)
    return Rebuild(records.rebuilds, scope, bulk_reads, tasks, clock)


def build_unpacker(
    source: ObjectStore,
    output: ObjectStore,
    state: StateParts,
    records: JobRecords,
    bulk_reads: BulkReads,
    pool: Executor,
    deadline: AbstractContextManager[None] | None = None,
    csv_parser: CsvParser = parse_csv,
    clock: Callable[[], float] = time.time,
    max_unpacked_bytes: int = DEFAULT_MAX_BYTES,
    bundle_rules: BundleRules = DEFAULT_RULES,
) -> "Unpacker":
    """Return an unpacker of these parts."""
    from worker.jobs.entry_builder import ArchiveUnpacker, EntryBuilder  # noqa: PLC0415
    from worker.jobs.unpacker import MemberMarker, Unpacker  # noqa: PLC0415

    users = state.users
    unpacks = records.unpacks
    folders = UnpackedFolders(output, records.unpack_lease, max_unpacked_bytes, bundle_rules)
    archives = ArchiveUnpacker(source, folders, pool, deadline, csv_parser)
    catalog_writer = CatalogWriter(
        output, users, state.catalog_version, state.loss_signals, records.previous_versions
    )
    return Unpacker(
        records.unpack_lease,
        users,
        EntryBuilder(source, folders, archives, unpacks, clock),
        catalog_writer,
        MemberMarker(users, bulk_reads, folders, unpacks, clock),
    )


class PublisherParts(NamedTuple):
    """A publisher, and the recovery of the objects that it writes."""

    publisher: "Publisher"
    recovery: "ObjectRecovery"


def build_publisher(
    output: ObjectStore,
    state: StateParts,
    unpack_lease: Lease,
    source_bucket: str,
    clock: Callable[[], float],
) -> PublisherParts:
    """Return a publisher with nothing cached, and its recovery, which shares its objects."""
    from worker.publishing import (  # noqa: PLC0415
        manifest_writer,
        object_recovery,
        output_writer,
        publisher,
        recovering_store,
        superseded_copies,
    )

    buckets = Buckets(source_bucket, output.bucket)
    objects = recovering_store.RecoveringStore(output, state.loss_signals)
    manifest = manifest_writer.ManifestWriter(objects, clock)
    writer = output_writer.OutputWriter(objects, state.loss_signals, manifest, buckets)
    copies = superseded_copies.SupersededCopies(output, state.users, buckets, clock)
    built = publisher.Publisher(state.publish_queue, writer, copies, manifest, clock)
    recovery = object_recovery.ObjectRecovery(objects, built, unpack_lease, state.loss_signals)
    return PublisherParts(built, recovery)
