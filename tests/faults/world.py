"""One history: two buckets, a Redis, Rowdrop's parts as actors, and all faults a test can inject.

Nothing happens unless the test does it. The clock is a number, and the TTLs in Redis follow it.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis import Redis

from shared.formats.manifest import Manifest
from shared.formats.object_names import OUTPUT_KEY
from shared.object_store import PreconditionFailed, StoreUnavailable
from tests.fakes import FakeMinioMetrics
from tests.faults.drops import UserActions
from tests.faults.event_transit import EventTransit
from tests.faults.monitor import ProtocolMonitor
from tests.faults.oracle import Oracle
from tests.faults.parts import Components
from tests.faults.processes import Processes
from tests.faults.redis_faults import RedisFaults
from tests.faults.servers import BucketPair
from tests.faults.stepped_ports import SteppedMinioMetrics, SteppedRedis, SteppedStore, load_scripts
from worker.publishing.published_files import read_published_files
from worker.source.metrics import LOSS_COUNTERS, START_TIME_METRIC


class World:
    """A history on a Redis that is emptied first.

    `components_type` makes the parts, perhaps with one protocol rule removed.
    """

    def __init__(
        self,
        redis: "Redis",
        redis_url: str,
        new_servers: Callable[[Callable[[], float]], BucketPair],
        components_type: type[Components] = Components,
    ) -> None:
        self.now = float(int(time.time()))
        self.redis = redis
        self.late_writes = list[Callable[[], object]]()
        self._minio_starts = self._failed_event_count = 0
        redis.flushall()
        servers = new_servers(lambda: self.now)
        self.output_bucket = servers.output
        self.oracle = Oracle(servers.source, servers.output)
        self.events = EventTransit(redis)
        self.monitor = ProtocolMonitor(redis, servers.output, self.oracle, self.events)
        self.redis_faults = RedisFaults(redis, self.monitor, self.oracle)
        self.user_actions = UserActions(servers, self.oracle, self.events, lambda: self.now)
        defer = self.late_writes.append
        self._source = SteppedStore(
            servers.source,
            "source",
            lambda _, __: lambda: None,  # writes of the source are not checked
            defer,
            self.monitor.before_list,
        )
        output = SteppedStore(servers.output, "output", self.monitor.before_write, defer)
        minio_metrics = SteppedMinioMetrics(FakeMinioMetrics(self._build_metrics))
        self._client: SteppedRedis = SteppedRedis.from_url(redis_url)  # type: ignore[assignment]
        self._client.run_id = lambda: f"run-{self.redis_faults.run_number}"
        self._client.on_command = self.monitor.before_script
        components = components_type(
            self._client, self._source, output, minio_metrics, lambda: self.now
        )
        load_scripts(redis, components.list_scripts())
        self.processes = Processes(components, redis)
        self.components = components
        self.monitor.count_lost_workers = lambda: (
            self.processes.killed_count + len(self.processes.running_actors)
        )

    def _build_metrics(self) -> str:
        return json.dumps(
            [
                (START_TIME_METRIC, "", self._minio_starts),
                (next(iter(LOSS_COUNTERS)), "", self._failed_event_count),
            ]
        )

    def enable_image_copies(self) -> None:
        """Set IMAGES=copy for the whole history, before any part is built."""
        self.components.enable_image_copies()
        self.oracle.copy_images = True

    # -- MinIO -------------------------------------------------------------------------------------
    def lose_event(self, position: int, *, is_counted: bool) -> None:
        """Drop an event. If `is_counted`, MinIO counts the loss."""
        if self.events.lose(position, is_counted=is_counted) and is_counted:
            self._failed_event_count += 1

    def restart_minio(self) -> None:
        """Kill and restart MinIO, which loses all events that it has not sent."""
        self.events.lose_all_waiting()
        self._minio_starts += 1

    def set_source_unreachable(self, *, is_unreachable: bool) -> None:
        """Make src-data unreachable (`is_unreachable`), or reachable again."""
        self._source.is_reachable = not is_unreachable

    def apply_late_write(self, position: int = 0) -> None:
        """Perform a late write if its condition still holds.

        Its sender received a timeout error before.
        """
        if self.late_writes:
            with suppress(PreconditionFailed, StoreUnavailable):
                self.late_writes.pop(position % len(self.late_writes))()

    def restart_redis(self) -> None:
        """Kill and restart Redis with the data that it saved last."""
        self.redis_faults.restore_saved_state()

    # -- by hand -----------------------------------------------------------------------------------
    def delete_published_file(self, key: str) -> None:
        """Delete one of the published files by hand.

        If output.csv is deleted and the manifest is complete, held rows must be restored from it.
        The manifest is complete without late writes, and if there was only one publisher. Rows of
        other users may be older for a moment.
        """
        is_manifest_complete = (
            key == OUTPUT_KEY and not self.late_writes and self.processes.had_one_publisher
        )
        manifest = Manifest.empty()
        if is_manifest_complete:
            manifest = read_published_files(self.output_bucket).manifest
        self.output_bucket.delete(key)
        self.monitor.record_version(key)
        self.oracle.allow_older_rows(self.oracle.list_users_without_held_row(manifest))

    def edit_output_file(self, edit: Callable[[bytes], bytes]) -> None:
        """Edit output.csv by hand, if it exists."""
        if self.output_bucket.exists(OUTPUT_KEY):
            self.output_bucket.put(OUTPUT_KEY, edit(self.output_bucket.get(OUTPUT_KEY).body))
            self.monitor.record_version(OUTPUT_KEY)
            self.oracle.allow_older_rows()
            self.oracle.check_published_rows(is_unpreventable=True, by_hand=True)

    # -- time --------------------------------------------------------------------------------------
    def pass_time(self, seconds: float) -> None:
        """Advance the clock by this many seconds."""
        self.now += seconds
        self.redis_faults.pass_time(seconds)

    def quiesce_and_check(self) -> None:
        """Run everything until nothing is left to do, then check the oracle.

        The source bucket is made reachable first. The watchdog ticks as often as necessary.
        """
        self.set_source_unreachable(is_unreachable=False)
        self.processes.run_until_quiet(self.events.deliver_all, self.pass_time)
        self.oracle.check_quiescent_state(except_users=self.events.lost_users, is_swept=False)

    def finish_and_check(self, fates: Sequence[int]) -> None:
        """End the history: decide about each paused process, settle, and check the oracle.

        `fates` is repeated over the paused processes: 0 resumes a process, 1 kills it, 2 leaves it
        paused until all others are quiet. Late writes land before the first settling if no process
        is left paused, otherwise after it. The hourly sweep must find events that were lost without
        a trace.
        """
        self.user_actions.unpack_all_members()
        paused_actors = self.processes.resolve_actors(fates)
        if not paused_actors:
            self._apply_late_writes()
        self.quiesce_and_check()
        self.processes.finish_actors()
        self._apply_late_writes()
        self.quiesce_and_check()
        if self.events.lost_users or self.oracle.has_stray_copies():
            self.pass_time(2 * self.processes.components.settings.sweep_interval_s + 1)
            self.quiesce_and_check()
            assert not self.events.lost_users, (
                "expected the hourly sweep to find users with lost events, "
                "found no sweep after two intervals"
            )
            self.oracle.check_quiescent_state()

    def close(self) -> None:
        """Kill all actors that are still paused, and close the Redis client."""
        for actor in list(self.processes.running_actors):
            actor.kill()
        self._client.close()

    def _apply_late_writes(self) -> None:
        while self.late_writes:
            self.apply_late_write()
