"""Runs Rowdrop one step at a time, for tests that force an order of the steps."""

import time
from collections.abc import Sequence

from shared.keys import bundle_id
from shared.object_store import ObjectNotFound, ObjectStore
from shared.output_csv import OutputCsv
from shared.published import OUTPUT
from shared.records import Reject, Row
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from worker.check import check
from worker.evidence import Watch
from worker.publish import Publisher
from worker.published_files import read_published
from worker.wiring import Wiring

HEADER = "first_name,last_name,birthts"


def csv_of(first_name: str = "Ivan", last_name: str = "Ivanov", birthts: int = 946_674_000_000) -> bytes:
    return f"{HEADER}\n{first_name},{last_name},{birthts}\n".encode()


class Stepping:
    """The worker's parts of one pair of buckets."""

    def __init__(self, settings: Settings) -> None:
        self.wiring = Wiring(settings)
        self.source, self.output, self.backlog = self.wiring.source, self.wiring.output, self.wiring.backlog
        self.publisher = self.new_publisher()

    def close(self) -> None:
        self.wiring.close()

    def new_publisher(self, output: ObjectStore | None = None) -> Publisher:
        """Return a publisher with nothing cached, as after a restart.

        `output`: a wrapper of the output bucket, for tests that interfere with its requests.
        """
        return Publisher(output or self.output, self.backlog, self.source.bucket, time.time)

    def new_watch(self) -> Watch:
        """Return a watchdog that has not run a tick yet."""
        wiring = self.wiring
        return Watch(
            wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, wiring.server_figures, wiring.settings
        )  # fmt: skip

    def drop(self, user_id: str, body: bytes | None = None, *, images: Sequence[str] = ()) -> None:
        """Put a CSV and images into the source bucket, without an event."""
        self.source.put(f"{user_id}.csv", csv_of() if body is None else body)
        for extension in images:
            self.source.put(f"{user_id}.{extension}", b"image")

    def mark(self, *user_ids: str, cause: str = "event") -> None:
        self.backlog.mark(user_ids, cause, time.time())

    def refresh(self, *user_ids: str) -> None:
        """Mark and read these users."""
        self.mark(*user_ids)
        self.wiring.refresher.refresh(user_ids)

    def publish(self) -> None:
        """Publish until no result is pending and no image copy waits for deletion."""
        while self.publisher.publish() or self.publisher.has_dropped_copies:
            pass

    def land(self, *user_ids: str) -> None:
        """Mark, read and publish these users."""
        self.refresh(*user_ids)
        self.publish()

    def sweep(self, cause: str = "test") -> int:
        """Sweep, read the marked users and publish; return how many users the sweep marked."""
        marked = self.wiring.sweep.run(cause)
        self.do_bulk_work()
        return marked

    def do_bulk_work(self) -> None:
        """Unpack all waiting bundles, read all waiting pages, and publish."""
        while self.unpack_next() or self.wiring.bulk.next_page():
            pass
        self.publish()
        self.backlog.redis.delete(BULK_QUEUE)  # the messages of the work that is done

    def unpack_next(self) -> bool:
        """Process the bundle that waits longest; return False if there is no such bundle."""
        waiting = list(self.backlog.note([bundle_id(key) for key in self.wiring.unpacks.waiting()]))
        if waiting:
            self.wiring.unpacker.run(waiting[0][1:])
        return bool(waiting)

    def land_bundles(self, *keys: str) -> None:
        """Mark these bundles, unpack them, read their users and publish."""
        self.mark(*map(bundle_id, keys))
        self.do_bulk_work()

    def rows(self) -> dict[str, Row]:
        return {row.user_id: row for row in OutputCsv(self.body()).rows()}

    def body(self) -> bytes:
        return self.output.get(OUTPUT).body

    def has_output(self) -> bool:
        try:
            self.output.get(OUTPUT)
        except ObjectNotFound:
            return False
        return True

    def rejects(self) -> dict[str, Reject]:
        return read_published(self.output).rejects

    def differences(self) -> list[str]:
        return check(self.source, self.output, self.wiring.settings.copies_images)
