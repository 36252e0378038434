"""Runs Rowdrop one step at a time, for tests that force an order of the steps."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from shared.formats.object_names import OUTPUT_KEY
from shared.formats.output_csv import OutputCsv
from shared.formats.records import Reject, Row
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectStore
from shared.progress.job_records import build_records
from shared.progress.sweep_record import SweepRecord
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from worker.bundles.catalog import BundleRules
from worker.bundles.lookup import BundleLookup
from worker.bundles.unpacked_folders import DEFAULT_MAX_BYTES
from worker.commands.check import check_buckets
from worker.jobs.sweep import Sweep
from worker.jobs.unpacker import Unpacker
from worker.listener import Listener
from worker.publishing.published_files import read_published_files
from worker.publishing.publisher import Publisher
from worker.reading.csv_parsing import CsvParser, parse_csv
from worker.reading.image_copies import ImageCopies
from worker.reading.parallel import ParallelCalls
from worker.reading.user_reader import UserReader
from worker.services.builders import (
    PublisherParts,
    Readers,
    build_publisher,
    build_readers,
    build_sweep,
    build_unpacker,
)
from worker.services.clients import ServerClients
from worker.services.container import Services
from worker.services.watchdog_builder import build_checks
from worker.source.metrics import MinioMetrics
from worker.source.notifications import NotificationRules
from worker.state.schema_upgrade import upgrade_schema
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.watchdog import Watchdog

CSV_HEADER = "first_name,last_name,birthts"


def make_csv(
    first_name: str = "Ivan", last_name: str = "Ivanov", birthts: int = 946_674_000_000
) -> bytes:
    return f"{CSV_HEADER}\n{first_name},{last_name},{birthts}\n".encode()


def do_not_wait(_: float) -> None:
    """Replace the sleep of a sweep, which checks all the same whether an event is waiting."""


class RowdropHarness:
    """The worker's parts of one pair of buckets."""

    def __init__(self, settings: Settings) -> None:
        self.services = Services(ServerClients(settings))
        self.source = self.services.clients.source
        self.output = self.services.clients.output
        self.state = self.services.state
        self.redis: Any = self.services.clients.redis
        self.publisher, self.recovery = self.create_publisher_parts()
        self.sweep = self._build_sweep(
            self.source, self.output, self.services.bundles, self.services.image_copies
        )

    def close(self) -> None:
        self.services.close()

    def create_publisher(self, output: ObjectStore | None = None) -> Publisher:
        """Return a publisher with nothing cached, as after a restart.

        `output`: a wrapper of the output bucket, for tests that interfere with its requests.
        """
        return self.create_publisher_parts(output).publisher

    def create_publisher_parts(self, output: ObjectStore | None = None) -> PublisherParts:
        """Return what `create_publisher` does, together with its recovery of objects."""
        return build_publisher(
            output or self.output,
            self.state,
            self.services.records.unpack_lease,
            self.source.bucket,
            time.time,
        )

    def create_readers(
        self,
        *,
        source: ObjectStore | None = None,
        output: ObjectStore | None = None,
        pool: Executor | None = None,
        csv_parser: CsvParser = parse_csv,
    ) -> Readers:
        """Return readers with these parts in place of the worker's own.

        `output`: a wrapper of the output bucket, to which images are copied.
        """
        copies = ImageCopies(
            self.source,
            output or self.output,
            all_images=self.services.clients.settings.copy_images,
        )
        calls = ParallelCalls(pool or self.services.clients.read_pool, max_parallel=4)
        bundles = self.services.bundles
        user_reader = UserReader(source or self.source, calls, bundles, copies, csv_parser)
        return build_readers(user_reader, self.state)

    def create_unpacker(
        self,
        *,
        source: ObjectStore | None = None,
        output: ObjectStore | None = None,
        csv_parser: CsvParser = parse_csv,
        max_unpacked_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Unpacker:
        """Return an unpacker, for tests that interfere with its requests or its parser."""
        services = self.services
        return build_unpacker(
            source or self.source,
            output or self.output,
            services.state,
            services.records,
            services.bulk_reads,
            services.clients.read_pool,
            csv_parser=csv_parser,
            max_unpacked_bytes=max_unpacked_bytes,
            bundle_rules=BundleRules(services.clients.settings.zip_names),
        )

    def create_sweep(
        self,
        *,
        source: ObjectStore | None = None,
        output: ObjectStore | None = None,
        wait: Callable[[float], None] = do_not_wait,
    ) -> Sweep:
        """Return a sweep with nothing cached, for tests that interfere with its requests.

        `wait` replaces its pause for events on their way.
        """
        source = source or self.source
        output = output or self.output
        bundles = BundleLookup(output, self.state.catalog_version, self.state.users)
        copies = ImageCopies(source, output, all_images=self.services.clients.settings.copy_images)
        return self._build_sweep(source, output, bundles, copies, wait)

    def _build_sweep(
        self,
        source: ObjectStore,
        output: ObjectStore,
        bundles: BundleLookup,
        copies: ImageCopies,
        wait: Callable[[float], None] = do_not_wait,
    ) -> Sweep:
        return build_sweep(
            source,
            output,
            self.state,
            self.services.records,
            self.services.bulk_reads,
            self.services.ignored_keys,
            self.services.minio_metrics,
            bundles,
            copies,
            wait=wait,
            bundle_rules=BundleRules(self.services.clients.settings.zip_names),
        )

    def create_checks(
        self,
        metrics: MinioMetrics | None = None,
        notification_rules: NotificationRules | None = None,
    ) -> WatchdogChecks:
        """Return the watchdog's checks, for tests that run one of them."""
        services = self.services
        return build_checks(
            services.state,
            build_records(services.clients.redis),
            services.clients.output,
            services.clients.tasks,
            metrics or services.minio_metrics,
            services.clients.settings.sweep_interval_s,
            notification_rules,
        )

    def create_listener(self) -> Listener:
        """Return a listener of the source bucket."""
        services = self.services
        return Listener(
            services.state.inbox,
            services.clients.tasks,
            services.ignored_keys,
            services.clients.settings.source_bucket,
            time.time,
        )

    def create_watchdog(self, checks: WatchdogChecks | None = None) -> Watchdog:
        """Return a watchdog that has not run a tick yet, with these checks or with new ones."""
        client = self.services.clients.redis
        checks = checks or self.create_checks()
        return Watchdog(
            checks.list_all(),
            SweepRecord(client),
            self.services.clients.tasks,
            partial(upgrade_schema, client),
        )

    def put_files(
        self, user_id: str, body: bytes | None = None, *, images: Sequence[str] = ()
    ) -> None:
        """Put a CSV and images into the source bucket, without an event."""
        self.source.put(f"{user_id}.csv", make_csv() if body is None else body)
        for extension in images:
            self.source.put(f"{user_id}.{extension}", b"image")

    def mark_users(self, *user_ids: str, cause: str = "event") -> None:
        self.state.users.mark(user_ids, cause, time.time())

    def read_users(self, *user_ids: str) -> None:
        """Mark and read these users."""
        self.mark_users(*user_ids)
        self.services.refresher.refresh(user_ids)

    def publish_pending(self) -> None:
        """Publish until no result is pending and no image copy waits for deletion."""
        while self.publisher.publish() or self.publisher.has_superseded_copies:
            pass

    def process_users(self, *user_ids: str) -> None:
        """Mark, read and publish these users."""
        self.read_users(*user_ids)
        self.publish_pending()

    def run_sweep(self, cause: str = "test") -> int:
        """Sweep, read the marked users and publish; return how many users the sweep marked."""
        marked = self.sweep.run(cause)
        self.run_bulk_work()
        return marked

    def run_bulk_work(self) -> None:
        """Unpack all waiting bundles, read all waiting pages, and publish."""
        while self.unpack_next_bundle() or self.services.bulk_reads.read_next_page():
            pass
        self.publish_pending()
        self.redis.delete(BULK_QUEUE)  # the messages of the work that is done

    def unpack_next_bundle(self) -> bool:
        """Process the bundle that waits longest; return False if there is no such bundle."""
        waiting = list(
            self.state.users.begin_read(
                [
                    make_bundle_id(key)
                    for key in self.services.records.unpacks.list_waiting_bundles()
                ]
            )
        )
        if waiting:
            self.services.unpacker.run(waiting[0][1:])
        return bool(waiting)

    def process_bundles(self, *keys: str) -> None:
        """Mark these bundles, unpack them, read their users and publish."""
        self.mark_users(*map(make_bundle_id, keys))
        self.run_bulk_work()

    def read_rows(self) -> dict[str, Row]:
        return {row.user_id: row for row in OutputCsv(self.read_output()).iterate_rows()}

    def read_output(self) -> bytes:
        return self.output.get(OUTPUT_KEY).body

    def read_rejects(self) -> dict[str, Reject]:
        return read_published_files(self.output).rejects

    def find_differences(self) -> list[str]:
        settings = self.services.clients.settings
        return check_buckets(
            self.source, self.output, settings.copy_images, zip_names=settings.zip_names
        ).differences
