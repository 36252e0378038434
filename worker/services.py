"""Build the worker's clients and parts.

Each is created, and connects, when it is first used. Modules that need pandas and pyarrow are
imported on first use: a process that only listens or reads single drops does not need their 60 MB.
"""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from minio import Minio
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from urllib3 import PoolManager, Timeout

from shared import logs
from shared.formats.records import Buckets
from shared.object_store import ObjectStore
from shared.progress.job_records import JobRecords, build_records
from shared.progress.unpacks import UnpackLease
from shared.s3.objects import S3ObjectStore, open_store
from shared.settings import Settings
from shared.task_queue import TaskQueue, create_celery
from worker.bundles.lookup import BundleLookup
from worker.jobs.bulk_reads import BulkReads
from worker.reading.csv_parsing import CsvParser, parse_csv
from worker.reading.image_copies import ImageCopies
from worker.reading.isolated_reads import IsolatedReads
from worker.reading.parallel import ParallelCalls
from worker.reading.refresher import Refresher
from worker.reading.source_health import SourceHealth
from worker.reading.user_reader import UserReader
from worker.source.ignored_keys import IgnoredKeys
from worker.source.metrics import MinioMetrics
from worker.source.notifications import NotificationRules
from worker.state.parts import StateParts, build_state
from worker.state.schema_upgrade import upgrade_schema
from worker.watchdog.checks import build_checks
from worker.watchdog.watchdog import Watchdog

if TYPE_CHECKING:
    from worker.jobs.rebuild import Rebuild
    from worker.jobs.sweep import Sweep
    from worker.jobs.unpacker import Unpacker
    from worker.publishing.object_recovery import ObjectRecovery
    from worker.publishing.publisher import Publisher

READ_CONCURRENCY = 32
"""Maximum concurrent requests to MinIO per process; more are not faster on one server."""


class ServerClients:
    """The clients of one process for Redis, MinIO and Celery.

    They hold connections and threads, so create them after a fork, never before.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def from_environment(cls, *, redis: bool = True) -> "ServerClients":
        """Read the settings and set up the log.

        Raises `InvalidSettings`. `redis`: whether the process uses Redis and requires its settings.
        """
        settings = Settings.from_environment(redis=redis)
        logs.configure_logging(settings.log_level)
        return cls(settings)

    def close(self) -> None:
        """Close the connections and stop the threads."""
        self.redis.close()
        self.tasks.close()
        self.read_pool.shutdown()

    def connect_redis(self) -> "Redis":
        """Return a new Redis client, for a thread that blocks in Redis."""
        return Redis.from_url(
            self.settings.redis_url,
            socket_timeout=10,
            socket_connect_timeout=3,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),
        )

    def create_minio_client(self, http_client: PoolManager | None = None) -> Minio:
        """Return a client for requests about whole buckets: creation and notifications."""
        endpoint = urlsplit(self.settings.minio_endpoint)
        access_key = self.settings.minio_access_key
        secret_key = self.settings.minio_secret_key
        return Minio(
            endpoint.netloc,
            access_key,
            secret_key,
            secure=endpoint.scheme == "https",
            region=self.settings.region,
            http_client=http_client,
        )

    @cached_property
    def redis(self) -> "Redis":
        """The Redis client of the process; it returns bytes."""
        return self.connect_redis()

    @cached_property
    def source(self) -> S3ObjectStore:
        """The source bucket, where users drop files."""
        return open_store(self.settings, self.settings.source_bucket)

    @cached_property
    def output(self) -> S3ObjectStore:
        """The output bucket, which holds the published files."""
        return open_store(self.settings, self.settings.output_bucket)

    @cached_property
    def tasks(self) -> TaskQueue:
        """The Celery queues, for enqueueing tasks."""
        return TaskQueue(create_celery(self.settings.redis_url))

    @cached_property
    def read_pool(self) -> ThreadPoolExecutor:
        """The threads that send concurrent requests to MinIO."""
        return ThreadPoolExecutor(READ_CONCURRENCY, thread_name_prefix="reader")


class Services:
    """The parts of one process, on its clients.

    `deadline` is entered for each read and may kill the process. `csv_parser` parses the CSVs that
    are not in bundles.
    """

    def __init__(
        self,
        clients: ServerClients,
        deadline: AbstractContextManager[None] | None = None,
        csv_parser: CsvParser = parse_csv,
    ) -> None:
        self.clients = clients
        self._deadline = deadline
        self._csv_parser = csv_parser

    def close(self) -> None:
        """Close the connections and stop the threads."""
        self.clients.close()

    @cached_property
    def state(self) -> StateParts:
        """The state of all users in Redis."""
        return build_state(self.clients.redis)

    @cached_property
    def records(self) -> JobRecords:
        """The records of jobs in Redis."""
        return build_records(self.clients.redis)

    @cached_property
    def bundles(self) -> BundleLookup:
        """The lookup of users' files in bundles."""
        return BundleLookup(self.clients.output, self.state.catalog_version, self.state.users)

    @cached_property
    def image_copies(self) -> ImageCopies:
        """The maker of image copies."""
        return ImageCopies(
            self.clients.source, self.clients.output, all_images=self.clients.settings.copy_images
        )

    @cached_property
    def ignored_keys(self) -> IgnoredKeys:
        """The list of ignored keys."""
        return IgnoredKeys(self.clients.redis)

    @cached_property
    def minio_metrics(self) -> MinioMetrics:
        """The reader of MinIO's metrics."""
        return MinioMetrics(
            self.clients.settings.minio_endpoint, self.clients.settings.minio_prometheus_token
        )

    @cached_property
    def notification_rules(self) -> NotificationRules:
        """MinIO's notification rules of the source bucket, by a client with short timeouts."""
        http_client = PoolManager(timeout=Timeout(connect=2, read=5), retries=False)
        return NotificationRules(
            self.clients.create_minio_client(http_client), self.clients.settings.source_bucket
        )

    @cached_property
    def _readers(self) -> "Readers":
        user_reader = UserReader(
            self.clients.source,
            ParallelCalls(self.clients.read_pool, READ_CONCURRENCY),
            self.bundles,
            self.image_copies,
            self._csv_parser,
        )
        return build_readers(user_reader, self.state, self._deadline)

    @property
    def refresher(self) -> Refresher:
        """The reads of dirty users."""
        return self._readers.refresher

    @property
    def isolated_reads(self) -> IsolatedReads:
        """The reads of users that may have killed a worker."""
        return self._readers.isolated_reads

    @cached_property
    def bulk_reads(self) -> BulkReads:
        """The maker and reader of the pages of sweeps and rebuilds."""
        return BulkReads(self.clients.source, self.refresher, self.state, self.clients.tasks)

    @cached_property
    def sweep(self) -> "Sweep":
        """The sweep, which compares the source bucket with the published files."""
        from worker.jobs.sweep import Sweep  # noqa: PLC0415

        return Sweep(
            self.clients.source,
            self.clients.output,
            self.state,
            self.records,
            self.bulk_reads,
            self.ignored_keys,
            self.minio_metrics,
            bundle_lookup=self.bundles,
            image_copies=self.image_copies,
        )

    @cached_property
    def rebuild(self) -> "Rebuild":
        """The rebuild, which reads every user again."""
        from worker.jobs.rebuild import Rebuild  # noqa: PLC0415

        return Rebuild(
            self.clients.output,
            self.state,
            self.bulk_reads,
            self.clients.tasks,
            self.records.rebuilds,
            bundle_lookup=self.bundles,
        )

    @cached_property
    def unpacker(self) -> "Unpacker":
        """The unpacker of bundles."""
        from worker.jobs.unpacker import Unpacker  # noqa: PLC0415

        parts = (
            self.clients.source,
            self.clients.output,
            self.state,
            self.bulk_reads,
            self.clients.tasks,
            self.records,
        )
        return Unpacker(*parts, self.clients.read_pool, self._deadline)

    @cached_property
    def watchdog(self) -> Watchdog:
        """The watchdog, with a connection of its own, because it runs in another thread."""
        client = self.clients.connect_redis()
        records = build_records(client)
        checks = build_checks(
            client,
            build_state(client),
            records,
            self.clients.output,
            self.clients.tasks,
            self.minio_metrics,
            self.clients.settings.sweep_interval_s,
            self.notification_rules,
        )
        return Watchdog(
            checks.list_all(), records.sweeps, self.clients.tasks, partial(upgrade_schema, client)
        )


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


def freeze_gc() -> None:
    """Exempt all loaded objects from garbage collection; call it when everything is loaded.

    Otherwise a collection in the middle of a drop would scan them again.
    """
    gc.collect()
    gc.freeze()


class PublisherParts(NamedTuple):
    """A publisher, and the recovery of the objects that it writes."""

    publisher: "Publisher"
    recovery: "ObjectRecovery"


def build_publisher(
    output: ObjectStore,
    state: StateParts,
    unpack_lease: UnpackLease,
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
