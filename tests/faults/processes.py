"""Rowdrop's processes, each started for one piece of work, and stepped; and what brings them all to rest."""

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
"""Requests of a piece of work, pieces of work between two looks of the watch, and looks: more would never end."""
ROUND_S = OVERDUE_S + 1
SPARE = 99
"""The publisher, and the watch, that is started when the others sleep."""


class Processes:
    """`living` are those that stand before a request."""

    def __init__(self, parts: Parts, redis: "Redis") -> None:
        self.parts = parts
        self._redis: Any = redis
        self.living: list[Actor] = []
        self.deaths = 0
        self._publishers: dict[int, tuple[Publisher, Actor | None]] = {}
        self._watches: dict[int, tuple[Watch, Actor | None]] = {}

    # -- to start one ------------------------------------------------------------------------------------------------
    def listener(self, most_peeked: int = CHUNK) -> Actor:
        """Note the events that have come; `most_peeked` of them if there are more."""
        self.parts.listener_backlog.most_peeked = most_peeked
        return self._start("listener", lambda: self.parts.new_listener().run_once(0))

    def worker(self, queue: str, *, twice: bool = False) -> Actor | None:
        """Take a message, if there is one; `twice` leaves it there for another."""
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
        """Publish once, and write the memo if `memo`.  None while this publisher is at work."""
        publisher, busy = self._publishers.get(number, (None, None))
        if busy and not busy.over:
            return None
        if publisher is None or (busy and busy.killed):
            publisher = self.parts.new_publisher()
        actor = self._start(f"publisher {number}", lambda: self._publish(publisher, memo=memo))
        self._publishers[number] = publisher, actor
        return actor

    def restart_publisher(self, number: int = 0) -> None:
        """A publisher that stands nowhere is ended; the next one knows nothing."""
        self._publishers.pop(number, None)

    @property
    def one_publisher(self) -> bool:
        """Whether there was never more than one at a time."""
        return self._publishers.keys() <= {0}

    def _publish(self, publisher: Publisher, *, memo: bool) -> None:
        publisher.publish()
        self.parts.rebuild.finish()
        if memo and publisher.manifest_due(idle=True):
            publisher.write_manifest()

    def watch(self, number: int = 0) -> Actor | None:
        """One look of the watch.  None while this one is at a look."""
        watch, busy = self._watches.get(number, (None, None))
        if busy and not busy.over:
            return None
        if watch is None or (busy and busy.killed):
            watch = self.parts.new_watch()
        actor = self._start("watch", watch.tick)
        self._watches[number] = watch, actor
        return actor

    def request_rebuild(self) -> None:
        """POST /data."""
        task_id, new = self.parts.rebuilds.request(self.parts.clock())
        if new:
            self.parts.tasks.rebuild(task_id)

    def _start(self, name: str, work: Callable[[], object]) -> Actor:
        actor = Actor(name, work)
        self.living.append(actor)
        self._look_at(actor)
        return actor

    # -- to go on ----------------------------------------------------------------------------------------------------
    def step(self, actor: Actor, verdict: Verdict = Verdict.DONE) -> None:
        """Decide upon the request at which it stands."""
        self.deaths += verdict is Verdict.KILLED
        actor.step(verdict)
        self._look_at(actor)

    def until(self, actor: Actor, request: str) -> bool:
        """Go on until it stands before a request like that; False if it has come to its end instead."""
        for _ in range(MOST_STEPS):
            if actor.over or request in actor.at:
                return not actor.over
            self.step(actor)
        raise AssertionError(f"{actor.name} never ends")

    def run(self, actor: Actor | None) -> None:
        """Go on to the end."""
        if actor:
            self.until(actor, "\n")

    def kill(self, actor: Actor) -> None:
        """kill -9."""
        self.step(actor, Verdict.KILLED)

    def _look_at(self, actor: Actor) -> None:
        if not actor.over:
            return
        with suppress(ValueError):
            self.living.remove(actor)
        if actor.error and not isinstance(actor.error, StoreUnavailable | RedisError):
            raise actor.error

    # -- to come to rest -----------------------------------------------------------------------------------------------
    def pump(self) -> None:
        """Do all that is to be done, without the watch."""
        for _ in range(MOST_PIECES):
            if not self._do_a_piece():
                return
        raise Divergence(f"it never ends: {self._left()}")

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
        """Deliver, do everything, let the watch look: until nothing is left, which must come."""
        for _ in range(MOST_ROUNDS):
            deliver()
            self.pump()
            pass_time(ROUND_S)
            self.run(self.watch() or self.watch(SPARE))
            self.pump()
            if not self._left():
                return
        raise Divergence(f"after {MOST_ROUNDS} looks there is still something left: {self._left()}")

    def _left(self) -> str:
        lists = (FAST, SAFE, EVENTS_QUEUE, BULK_QUEUE, PAGES)
        left = [key for key in lists if self._redis.llen(key)]
        left += [key for key in ("dirty", "staged") if self._redis.hlen(key)]
        left += [key for key in ("rebuild:queued", "rebuild:running") if self._redis.exists(key)]
        if self.parts.backlog.epoch() != f"ok:{self.parts.backlog.run_id()}":
            left.append(f"epoch {self.parts.backlog.epoch()}")
        recorded, output = self.parts.backlog.published(), self.parts.output
        if (output.etag(OUTPUT), output.etag(REJECTS)) != (recorded.etag, recorded.rej_etag):
            left.append("files that no publisher has recorded")
        return ", ".join(left)

    def decide(self, fates: Sequence[int]) -> list[Actor]:
        """Of those that stand still: 0 goes on to its end, 1 is killed, 2 sleeps; the sleepers are returned."""
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
        """Whoever sleeps wakes."""
        for actor in list(self.living):
            self.run(actor)
