"""One history: two buckets, a Redis, Rowdrop's parts as actors, and every fault that a test may want.

Nothing happens by itself.  The clock is a number; Redis's time-outs follow it.
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
    """A history on a Redis that is emptied first.  `build` makes the parts, perhaps without one of the rules."""

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
        """IMAGES=copy, from the beginning."""
        self.parts.copy_images()
        self.oracle.copies_images = True

    # -- MinIO -------------------------------------------------------------------------------------------------------
    def lose_event(self, way: str, place: int, *, traced: bool) -> None:
        """An event is dropped; `traced`: MinIO counts it."""
        if self.transit.lose(way, place, traced=traced) and traced:
            self._failed_events += 1

    def restart_minio(self) -> None:
        """Killed and started again."""
        self.transit.lose_all()
        self._minio_starts += 1

    def cut_off_source(self, *, cut: bool) -> None:
        """src-data is out of reach, or within it again."""
        self._source.reachable = not cut

    def land(self, place: int = 0) -> None:
        """A write whose sender was told of a time-out is done, if its condition still holds."""
        if self.late:
            with suppress(PreconditionFailed, StoreUnavailable):
                self.late.pop(place % len(self.late))()

    def restart_redis(self) -> None:
        """Killed and started again with what was saved last."""
        self.redis_faults.fall_back()
        self.transit.miscount()

    # -- by hand -----------------------------------------------------------------------------------------------------
    def delete_published(self, key: str) -> None:
        """Somebody deletes one of the published files.  Held rows come back by the memo, if that is whole."""
        whole = key == OUTPUT and not self.late and self.processes.one_publisher
        kept = read_published(self.published).manifest if whole else Manifest.empty()
        self.published.delete(key)
        self.monitor.changed(key)
        self.oracle.doubt(self.oracle.all_but_held(kept))

    def edit_output(self, edit: Callable[[bytes], bytes]) -> None:
        """Somebody edits output.csv, if it is there."""
        if self.published.exists(OUTPUT):
            self.published.put(OUTPUT, edit(self.published.get(OUTPUT).body))
            self.monitor.changed(OUTPUT)
            self.oracle.doubt()
            self.oracle.served(excused=True, by_hand=True)

    # -- time --------------------------------------------------------------------------------------------------------
    def pass_time(self, seconds: float) -> None:
        """It gets later."""
        self.now += seconds
        self.redis_faults.pass_time(seconds)

    def settle(self) -> None:
        """Let everything come to rest, with as many looks of the watch as it takes; then the oracle is asked."""
        self.cut_off_source(cut=False)
        self.processes.quiesce(self.transit.deliver_all, self.pass_time)
        self.oracle.expect_quiet(but=self.transit.unheard, swept=False)

    def end(self, fates: Sequence[int]) -> None:
        """Every process that stands still goes on (0), is gone (1), or sleeps until all the others are quiet (2).

        The same for late writes.  What was lost without a trace is found by the hourly sweep.
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
            assert not self.transit.unheard, "there was no hourly sweep"
            self.oracle.expect_quiet()

    def close(self) -> None:
        """Whatever still stands somewhere is gone."""
        for actor in list(self.processes.living):
            actor.kill()
        self._client.close()

    def _land_all(self) -> None:
        while self.late:
            self.land()
