"""Rowdrop one step at a time, for tests that force an order of things."""

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
        """A publisher that knows nothing yet, as after a restart; perhaps into a bucket seen through something."""
        return Publisher(output or self.output, self.backlog, self.source.bucket, time.time)

    def new_watch(self) -> Watch:
        """A watch that has not looked yet."""
        wiring = self.wiring
        return Watch(
            wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, wiring.server_figures, wiring.settings
        )  # fmt: skip

    def drop(self, user_id: str, body: bytes | None = None, *, images: Sequence[str] = ()) -> None:
        """Put a CSV and images, without any event."""
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
        """Publish until nothing is staged, and nothing is to be deleted."""
        while self.publisher.publish() or self.publisher.has_dropped_copies:
            pass

    def land(self, *user_ids: str) -> None:
        """Mark, read and publish these users."""
        self.refresh(*user_ids)
        self.publish()

    def sweep(self, cause: str = "test") -> int:
        """Sweep, do what it found and publish; how many users it marked."""
        marked = self.wiring.sweep.run(cause)
        self.do_bulk_work()
        return marked

    def do_bulk_work(self) -> None:
        """Do all pages that wait, and publish."""
        while self.unpack_next() or self.wiring.bulk.next_page():
            pass
        self.publish()
        self.backlog.redis.delete(BULK_QUEUE)  # the messages that said so

    def unpack_next(self) -> bool:
        """Look at the bundle that waits longest; False if none waits."""
        waiting = list(self.backlog.note([bundle_id(key) for key in self.wiring.unpacks.waiting()]))
        if waiting:
            self.wiring.unpacker.run(waiting[0][1:])
        return bool(waiting)

    def land_bundles(self, *keys: str) -> None:
        """Mark these bundles, and do all that comes of it."""
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
