"""One history: two buckets, a Redis, Rowdrop's parts as actors, and all faults a test can inject.

Nothing happens unless the test does it. The clock is a number, and the TTLs in Redis follow it.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis import Redis

from shared.manifest import Manifest
from shared.object_store import PreconditionFailed, StoreUnavailable
from shared.published import OUTPUT
from tests.fakes import FakeFigures
from tests.faults.drops import Drops
from tests.faults.monitor import Monitor
from tests.faults.oracle import Oracle
from tests.faults.parts import Parts
from tests.faults.processes import Processes
from tests.faults.redis_faults import RedisFaults
from tests.faults.servers import Servers
from tests.faults.stepped import SteppedFigures, SteppedRedis, SteppedStore, load_scripts
from tests.faults.transit import WAYS, Transit
from worker.published_files import read_published
from worker.server_figures import COUNTERS, STARTED


class World:
    """A history on a Redis that is emptied first.

    `build` makes the parts, perhaps with one protocol rule removed.
    """

    def __init__(
        self,
        redis: "Redis",
        redis_url: str,
        new_servers: Callable[[Callable[[], float]], Servers],
        build: type[Parts] = Parts,
        ways: Sequence[str] = WAYS,
    ) -> None:
        self.now, self.redis, self.late = float(int(time.time())), redis, list[Callable[[], object]]()
        self._minio_starts = self._failed_events = 0
        redis.flushall()
        servers = new_servers(lambda: self.now)
        self.published = servers.output
        self.oracle = Oracle(servers.source, servers.output)
        self.transit = Transit(redis, ways)
        self.monitor = Monitor(redis, servers.output, self.oracle, self.transit)
        self.redis_faults = RedisFaults(redis, self.monitor, self.oracle)
        self.drops = Drops(servers, self.oracle, self.transit, lambda: self.now)
        later, unseen = self.late.append, lambda _, __: lambda: None
        self._source = SteppedStore(servers.source, "source", unseen, later, self.monitor.listing)
        output = SteppedStore(servers.output, "output", self.monitor.writing, later)
        figures = SteppedFigures(FakeFigures(self._figures))
        self._client: SteppedRedis = SteppedRedis.from_url(redis_url)  # type: ignore[assignment]
        self._client.run_id, self._client.seen = (lambda: f"run-{self.redis_faults.run}"), self.monitor.script
        parts = build(self._client, self._source, output, figures, lambda: self.now)
        load_scripts(redis, parts.scripts())
        self.processes = Processes(parts, redis)
        self.parts = parts
        self.monitor.workers_lost = lambda: self.processes.deaths + len(self.processes.living)

    def _figures(self) -> str:
        return json.dumps([(STARTED, "", self._minio_starts), (next(iter(COUNTERS)), "", self._failed_events)])

    def copy_images(self) -> None:
        """Set IMAGES=copy for the whole history, before any part is built."""
        self.parts.copy_images()
        self.oracle.copies_images = True

    # -- MinIO -------------------------------------------------------------------------------------
    def lose_event(self, way: str, place: int, *, traced: bool) -> None:
        """Drop an event. If `traced`, MinIO counts the loss."""
        if self.transit.lose(way, place, traced=traced) and traced:
            self._failed_events += 1

    def restart_minio(self) -> None:
        """Kill and restart MinIO, which loses all events that it has not sent."""
        self.transit.lose_all()
        self._minio_starts += 1

    def cut_off_source(self, *, cut: bool) -> None:
        """Make src-data unreachable (`cut`), or reachable again."""
        self._source.reachable = not cut

    def land(self, place: int = 0) -> None:
        """Perform a late write if its condition still holds.

        Its sender received a timeout error before.
        """
        if self.late:
            with suppress(PreconditionFailed, StoreUnavailable):
                self.late.pop(place % len(self.late))()

    def restart_redis(self) -> None:
        """Kill and restart Redis with the data that it saved last."""
        self.redis_faults.fall_back()
        self.transit.miscount()

    # -- by hand -----------------------------------------------------------------------------------
    def delete_published(self, key: str) -> None:
        """Delete one of the published files by hand.

        If output.csv is deleted and the manifest is complete, held rows must be restored from it.
        The manifest is complete without late writes, and if there was only one publisher. Rows of
        other users may be older for a moment.
        """
        whole = key == OUTPUT and not self.late and self.processes.one_publisher
        kept = read_published(self.published).manifest if whole else Manifest.empty()
        self.published.delete(key)
        self.monitor.changed(key)
        self.oracle.doubt(self.oracle.all_but_held(kept))

    def edit_output(self, edit: Callable[[bytes], bytes]) -> None:
        """Edit output.csv by hand, if it exists."""
        if self.published.exists(OUTPUT):
            self.published.put(OUTPUT, edit(self.published.get(OUTPUT).body))
            self.monitor.changed(OUTPUT)
            self.oracle.doubt()
            self.oracle.served(excused=True, by_hand=True)

    # -- time --------------------------------------------------------------------------------------
    def pass_time(self, seconds: float) -> None:
        """Advance the clock by this many seconds."""
        self.now += seconds
        self.redis_faults.pass_time(seconds)

    def settle(self) -> None:
        """Run everything until nothing is left to do, then check the oracle.

        The source bucket is made reachable first. The watchdog ticks as often as necessary.
        """
        self.cut_off_source(cut=False)
        self.processes.quiesce(self.transit.deliver_all, self.pass_time)
        self.oracle.expect_quiet(but=self.transit.unheard, swept=False)

    def end(self, fates: Sequence[int]) -> None:
        """End the history: decide about each paused process, settle, and check the oracle.

        `fates` is repeated over the paused processes: 0 resumes a process, 1 kills it, 2 leaves it
        paused until all others are quiet. Late writes land before the first settling if no process
        is left paused, otherwise after it. The hourly sweep must find events that were lost without
        a trace.
        """
        self.drops.unpack_all()
        sleepers = self.processes.decide(fates)
        if not sleepers:
            self._land_all()
        self.settle()
        self.processes.finish_all()
        self._land_all()
        self.settle()
        if self.transit.unheard or self.oracle.has_orphans():
            self.pass_time(2 * self.processes.parts.settings.sweep_interval_s + 1)
            self.settle()
            assert not self.transit.unheard, (
                "expected the hourly sweep to find users with lost events, found no sweep after two intervals"
            )
            self.oracle.expect_quiet()

    def close(self) -> None:
        """Kill all actors that are still paused, and close the Redis client."""
        for actor in list(self.processes.living):
            actor.kill()
        self._client.close()

    def _land_all(self) -> None:
        while self.late:
            self.land()
