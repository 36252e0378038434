"""The parts of one process, each built when it is first used.

Modules that need pandas, pyarrow or minio are imported on first use (see
`worker.services.builders`).
"""

import gc
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from urllib3 import PoolManager, Timeout

from shared.progress.job_records import JobRecords, build_records
from worker.bundles.catalog import BundleRules
from worker.bundles.lookup import BundleLookup
from worker.jobs.bulk_reads import BulkReads
from worker.reading.csv_parsing import CsvParser, parse_csv
from worker.reading.image_copies import ImageCopies
from worker.reading.isolated_reads import IsolatedReads
from worker.reading.parallel import ParallelCalls
from worker.reading.refresher import Refresher
from worker.reading.user_reader import UserReader
from worker.services.builders import (
    Readers,
    build_bulk_reads,
    build_readers,
    build_rebuild,
    build_sweep,
    build_unpacker,
)
from worker.services.clients import READ_CONCURRENCY, ServerClients
from worker.services.state_parts import StateParts, build_state
from worker.source.ignored_keys import IgnoredKeys

if TYPE_CHECKING:
    from worker.jobs.rebuild import Rebuild
    from worker.jobs.sweep import Sweep
    from worker.jobs.unpacker import Unpacker
    from worker.source.metrics import MinioMetrics
    from worker.source.notifications import NotificationRules
    from worker.watchdog.watchdog import Watchdog


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
    def minio_metrics(self) -> "MinioMetrics":
        """The reader of MinIO's metrics."""
        from worker.source.metrics import MinioMetrics  # noqa: PLC0415

        return MinioMetrics(
            self.clients.settings.minio_endpoint, self.clients.settings.minio_prometheus_token
        )

    @cached_property
    def notification_rules(self) -> "NotificationRules":
        """MinIO's notification rules of the source bucket, by a client with short timeouts."""
        from worker.source.notifications import NotificationRules  # noqa: PLC0415

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
        return build_bulk_reads(self.clients.source, self.state, self.refresher, self.clients.tasks)

    @cached_property
    def sweep(self) -> "Sweep":
        """The sweep, which compares the source bucket with the published files."""
        return build_sweep(
            self.clients.source,
            self.clients.output,
            self.state,
            self.records,
            self.bulk_reads,
            self.ignored_keys,
            self.minio_metrics,
            self.bundles,
            self.image_copies,
            bundle_rules=BundleRules(self.clients.settings.zip_names),
        )

    @cached_property
    def rebuild(self) -> "Rebuild":
        """The rebuild, which reads every user again."""
        return build_rebuild(
            self.clients.output,
            self.state,
            self.records,
            self.bulk_reads,
            self.clients.tasks,
            self.bundles,
        )

    @cached_property
    def unpacker(self) -> "Unpacker":
        """The unpacker of bundles."""
        return build_unpacker(
            self.clients.source,
            self.clients.output,
            self.state,
            self.records,
            self.bulk_reads,
            self.clients.read_pool,
            self._deadline,
            max_unpacked_bytes=self.clients.settings.max_unpacked_mb * 1_000_000,
            bundle_rules=BundleRules(self.clients.settings.zip_names),
        )

    @cached_property
    def watchdog(self) -> "Watchdog":
        """The watchdog, with a connection of its own, because it runs in another thread."""
        from worker.services.watchdog_builder import build_checks  # noqa: PLC0415
        from worker.state.schema_upgrade import upgrade_schema  # noqa: PLC0415
        from worker.watchdog.watchdog import Watchdog  # noqa: PLC0415

        client = self.clients.connect_redis()
        records = build_records(client)
        checks = build_checks(
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


def freeze_gc() -> None:
    """Exempt all loaded objects from garbage collection; call it when everything is loaded.

    Otherwise a collection in the middle of a drop would scan them again.
    """
    gc.collect()
    gc.freeze()
