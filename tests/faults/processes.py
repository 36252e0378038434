"""Rowdrop's processes as actors, each started for one piece of work, then stepped or resumed.

`Processes.quiesce` runs all of them until no work is left.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from shared.object_store import StoreUnavailable
from shared.published import OUTPUT, REJECTS
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, REBUILD, REFRESH, REFRESH_ALONE, REFRESH_PAGE, SWEEP, UNPACK
from tests.faults.actors import Actor, Verdict
from tests.faults.oracle import Divergence
from tests.faults.parts import Parts
from worker.backlog import CHUNK, FAST, PAGES, SAFE, WAKE_BULK, WAKE_LIVE
from worker.evidence import OVERDUE_S, Watch
from worker.publish import Publisher

MOST_STEPS, MOST_PIECES, MOST_ROUNDS = 3000, 100, 60
"""Limits that only an endless loop exceeds.

They are: requests in a piece of work, pieces of work between two ticks of the watchdog, and ticks.
"""
ROUND_S = OVERDUE_S + 1
SPARE = 99
"""The number of the publisher, and of the watchdog, started while the others are paused."""


class Processes:
    """Starts and steps actors. `living` are the actors that are paused before a request."""

    def __init__(self, parts: Parts, redis: "Redis") -> None:
        self.parts = parts
        self._redis: Any = redis
        self.living: list[Actor] = []
        self.deaths = 0
        self._publishers: dict[int, tuple[Publisher, Actor | None]] = {}
        self._watches: dict[int, tuple[Watch, Actor | None]] = {}

    # -- starting one ------------------------------------------------------------------------------
    def listener(self, most_peeked: int = CHUNK) -> Actor:
        """Start a listener that marks the users of the events in Redis.

        `most_peeked`: how many events it takes at most.
        """
        self.parts.listener_backlog.most_peeked = most_peeked
        return self._start("listener", lambda: self.parts.new_listener().run_once(0))

    def worker(self, queue: str, *, twice: bool = False) -> Actor | None:
        """Start a worker on the next message of a queue, or return None if it is empty.

        If `twice`, the message stays in the queue for another worker.
        """
        message = self._redis.lindex(queue, -1) if twice else self._redis.rpop(queue)
        if message is None:
            return None
        task, arguments = json.loads(message)
        return self._start(task, lambda: self._work(task, arguments))

    def _work(self, task: str, arguments: Sequence[str]) -> None:
        with self.parts.crew() as crew:
            work: dict[str, Callable[..., object]] = {
                REFRESH: crew.refresher.refresh,
                REFRESH_ALONE: crew.refresher.refresh_alone,
                REFRESH_PAGE: crew.bulk.next_page,
                SWEEP: crew.sweep.run,
                REBUILD: crew.rebuild.start,
                UNPACK: crew.unpacker.run,
            }
            work[task](*arguments)

    def publisher(self, number: int = 0, *, memo: bool = True) -> Actor | None:
        """Start a publisher that publishes once, and writes the manifest if `memo`.

        Returns None while this publisher is at work. A killed publisher is replaced by a new one.
        """
        publisher, busy = self._publishers.get(number, (None, None))
        if busy and not busy.over:
            return None
        if publisher is None or (busy and busy.killed):
            publisher = self.parts.new_publisher()
        actor = self._start(f"publisher {number}", lambda: self._publish(publisher, memo=memo))
        self._publishers[number] = publisher, actor
        return actor

    def restart_publisher(self, number: int = 0) -> None:
        """Restart a publisher that is not at work.

        The new one has no cached state.
        """
        self._publishers.pop(number, None)

    @property
    def one_publisher(self) -> bool:
        """Return whether no publisher but number 0 was ever started."""
        return self._publishers.keys() <= {0}

    def _publish(self, publisher: Publisher, *, memo: bool) -> None:
        publisher.publish()
        self.parts.rebuild.finish()
        if memo and publisher.manifest_due(idle=True):
            publisher.write_manifest()

    def watch(self, number: int = 0) -> Actor | None:
        """Start one tick of the watchdog, or return None while this watchdog is in a tick.

        A killed watchdog is replaced by a new one.
        """
        watch, busy = self._watches.get(number, (None, None))
        if busy and not busy.over:
            return None
        if watch is None or (busy and busy.killed):
            watch = self.parts.new_watch()
        actor = self._start("watch", watch.tick)
        self._watches[number] = watch, actor
        return actor

    def request_rebuild(self) -> None:
        """Request a rebuild, as POST /data does."""
        task_id, new = self.parts.rebuilds.request(self.parts.clock())
        if new:
            self.parts.tasks.rebuild(task_id)

    def _start(self, name: str, work: Callable[[], object]) -> Actor:
        actor = Actor(name, work)
        self.living.append(actor)
        self._look_at(actor)
        return actor

    # -- stepping ----------------------------------------------------------------------------------
    def step(self, actor: Actor, verdict: Verdict = Verdict.DONE) -> None:
        """Decide what happens to the request before which the actor is paused."""
        self.deaths += verdict is Verdict.KILLED
        actor.step(verdict)
        self._look_at(actor)

    def until(self, actor: Actor, request: str) -> bool:
        """Run the actor until it is paused before a matching request.

        Returns False if it ends first. `request` is a part of the request's name.
        """
        for _ in range(MOST_STEPS):
            if actor.over or request in actor.at:
                return not actor.over
            self.step(actor)
        raise AssertionError(f"{actor.name}: expected the work to end, found more requests than any work needs")

    def run(self, actor: Actor | None) -> None:
        """Run an actor, if there is one, to completion."""
        if actor:
            self.until(actor, "\n")

    def kill(self, actor: Actor) -> None:
        """Kill an actor, as kill -9 does."""
        self.step(actor, Verdict.KILLED)

    def _look_at(self, actor: Actor) -> None:
        if not actor.over:
            return
        with suppress(ValueError):
            self.living.remove(actor)
        if actor.error and not isinstance(actor.error, StoreUnavailable | RedisError):
            raise actor.error

    # -- quiescence --------------------------------------------------------------------------------
    def pump(self) -> None:
        """Do all work that waits in Redis, without the watchdog.

        Raises `Divergence` if that does not end.
        """
        for _ in range(MOST_PIECES):
            if not self._do_a_piece():
                return
        raise Divergence(f"expected all work to end without the watchdog, found that work remains: {self._left()}")

    def _do_a_piece(self) -> bool:
        if self._length(FAST) or self._length(SAFE):
            self.run(self.listener())
        elif self._length(EVENTS_QUEUE):
            self.run(self.worker(EVENTS_QUEUE))
        elif self._length(BULK_QUEUE):
            self.run(self.worker(BULK_QUEUE))
        elif (self._redis.hlen("staged") or self._length(WAKE_LIVE) or self._length(WAKE_BULK)) and not self._leased():
            self.run(self.publisher(0) or self.publisher(SPARE))
        else:
            return False
        return True

    def _leased(self) -> bool:
        return bool(self._redis.exists("writer"))

    def _length(self, key: str) -> int:
        return int(self._redis.llen(key))

    def quiesce(self, deliver: Callable[[], None], pass_time: Callable[[float], None]) -> None:
        """Deliver events, do all work and run watchdog ticks until no work is left.

        Raises `Divergence` if that does not end.
        """
        for _ in range(MOST_ROUNDS):
            deliver()
            self.pump()
            pass_time(ROUND_S)
            self.run(self.watch() or self.watch(SPARE))
            self.pump()
            if not self._left():
                return
        raise Divergence(f"expected no work to be left after {MOST_ROUNDS} watchdog ticks, found: {self._left()}")

    def _left(self) -> str:
        lists = (FAST, SAFE, EVENTS_QUEUE, BULK_QUEUE, PAGES)
        left = [key for key in lists if self._redis.llen(key)]
        left += [key for key in ("dirty", "staged") if self._redis.hlen(key)]
        left += [key for key in ("rebuild:queued", "rebuild:running") if self._redis.exists(key)]
        if self.parts.backlog.epoch() != f"ok:{self.parts.backlog.run_id()}":
            left.append(f"trust state {self.parts.backlog.epoch()}")
        recorded, output = self.parts.backlog.published(), self.parts.output
        if (output.etag(OUTPUT), output.etag(REJECTS)) != (recorded.etag, recorded.rej_etag):
            left.append("published files that no publisher has recorded")
        return ", ".join(left)

    def decide(self, fates: Sequence[int]) -> list[Actor]:
        """Apply `fates`, which is repeated over the paused actors, and return those left paused.

        Fate 0 runs an actor to completion, 1 kills it, 2 leaves it paused.
        """
        sleepers = []
        for number, actor in enumerate(list(self.living)):
            match fates[number % len(fates)]:
                case 0:
                    self.run(actor)
                case 1:
                    self.kill(actor)
                case _:
                    sleepers.append(actor)
        return sleepers

    def finish_all(self) -> None:
        """Run all paused actors to completion."""
        for actor in list(self.living):
            self.run(actor)
