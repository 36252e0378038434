"""Rowdrop's processes as actors, each started for one piece of work, then stepped or resumed.

`Processes.run_until_quiet` runs all of them until no work is left.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.object_store import StoreUnavailable
from shared.redis_keys import (
    CHANGE_VERSIONS,
    FAST_EVENTS,
    PAGES,
    PENDING_CHANGE_VERSIONS,
    PENDING_RESULTS,
    READ_VERSIONS,
    REBUILD_QUEUED,
    REBUILD_RUNNING,
    WAKE_BULK,
    WAKE_LIVE,
    WRITER_LEASE,
)
from shared.scripts import CHUNK_SIZE
from shared.task_queue import (
    BULK_QUEUE,
    EVENTS_QUEUE,
    REBUILD,
    REFRESH,
    REFRESH_ISOLATED,
    REFRESH_PAGE,
    SWEEP,
    UNPACK,
)
from tests.faults.actors import Actor, RequestFate
from tests.faults.oracle import OracleFailure
from tests.faults.parts import Components
from worker.publishing.publisher import Publisher
from worker.state.loss_signals import TrustState
from worker.watchdog.overdue import OVERDUE_S
from worker.watchdog.watchdog import Watchdog

MAX_STEPS = 3000
MAX_WORK_ITEMS = 100
MAX_ROUNDS = 60
"""Limits that only an endless loop exceeds.

They are: requests in a piece of work, pieces of work between two ticks of the watchdog, and ticks.
"""
ROUND_INTERVAL_S = OVERDUE_S + 1
SPARE_NUMBER = 99
"""The number of the publisher, and of the watchdog, started while the others are paused."""


class Processes:
    """Starts and steps actors. `running_actors` are the actors that are paused before a request."""

    def __init__(self, components: Components, redis: "Redis") -> None:
        self.components = components
        self._redis: Any = redis
        self.running_actors: list[Actor] = []
        self.killed_count = 0
        self._publishers: dict[int, tuple[Publisher, Actor | None]] = {}
        self._watchdogs: dict[int, tuple[Watchdog, Actor | None]] = {}

    # -- starting one ------------------------------------------------------------------------------
    def start_listener(self, max_peeked: int = CHUNK_SIZE) -> Actor:
        """Start a listener that marks the users of the events in Redis.

        `max_peeked`: how many events it takes at most.
        """
        self.components.listener_inbox.max_peeked = max_peeked
        return self._start("listener", lambda: self.components.create_listener().run_once(0))

    def start_worker(self, queue: str, *, keep_message: bool = False) -> Actor | None:
        """Start a worker on the next message of a queue, or return None if it is empty.

        If `keep_message`, the message stays in the queue for another worker.
        """
        message = self._redis.lindex(queue, -1) if keep_message else self._redis.rpop(queue)
        if message is None:
            return None
        task, arguments = json.loads(message)
        return self._start(task, lambda: self._run_task(task, arguments))

    def _run_task(self, task: str, arguments: Sequence[str]) -> None:
        with self.components.borrow_worker() as worker:
            work: dict[str, Callable[..., object]] = {
                REFRESH: worker.refresher.refresh,
                REFRESH_ISOLATED: worker.isolated_reads.refresh_isolated,
                REFRESH_PAGE: worker.bulk.read_next_page,
                SWEEP: worker.sweep.run,
                REBUILD: worker.rebuild.start,
                UNPACK: worker.unpacker.run,
            }
            work[task](*arguments)

    def start_publisher(self, number: int = 0, *, with_manifest: bool = True) -> Actor | None:
        """Start a publisher that publishes once, and writes the manifest if `with_manifest`.

        Returns None while this publisher is at work. A killed publisher is replaced by a new one.
        """
        publisher, running_actor = self._publishers.get(number, (None, None))
        if running_actor and not running_actor.is_finished:
            return None
        if publisher is None or (running_actor and running_actor.is_killed):
            publisher = self.components.create_publisher()
        actor = self._start(
            f"publisher {number}", lambda: self._publish(publisher, with_manifest=with_manifest)
        )
        self._publishers[number] = publisher, actor
        return actor

    def restart_publisher(self, number: int = 0) -> None:
        """Restart a publisher that is not at work.

        The new one has no cached state.
        """
        self._publishers.pop(number, None)

    @property
    def had_one_publisher(self) -> bool:
        """Return whether no publisher but number 0 was ever started."""
        return self._publishers.keys() <= {0}

    def _publish(self, publisher: Publisher, *, with_manifest: bool) -> None:
        publisher.publish()
        self.components.rebuild.finish()
        if with_manifest and publisher.is_manifest_due(idle=True):
            publisher.write_manifest()

    def start_watchdog(self, number: int = 0) -> Actor | None:
        """Start one tick of the watchdog, or return None while this watchdog is in a tick.

        A killed watchdog is replaced by a new one.
        """
        watchdog, running_actor = self._watchdogs.get(number, (None, None))
        if running_actor and not running_actor.is_finished:
            return None
        if watchdog is None or (running_actor and running_actor.is_killed):
            watchdog = self.components.create_watchdog()
        actor = self._start("watchdog", watchdog.tick)
        self._watchdogs[number] = watchdog, actor
        return actor

    def request_rebuild(self) -> None:
        """Request a rebuild, as POST /data does."""
        task_id, new = self.components.records.rebuilds.request(self.components.clock())
        if new:
            self.components.tasks.rebuild(task_id)

    def _start(self, name: str, work: Callable[[], object]) -> Actor:
        actor = Actor(name, work)
        self.running_actors.append(actor)
        self._check_actor(actor)
        return actor

    # -- stepping ----------------------------------------------------------------------------------
    def step_actor(self, actor: Actor, fate: RequestFate = RequestFate.DONE) -> None:
        """Decide what happens to the request before which the actor is paused."""
        self.killed_count += fate is RequestFate.KILLED
        actor.step(fate)
        self._check_actor(actor)

    def run_until(self, actor: Actor, request: str) -> bool:
        """Run the actor until it is paused before a matching request.

        Returns False if it ends first. `request` is a part of the request's name.
        """
        for _ in range(MAX_STEPS):
            if actor.is_finished or request in actor.pending_request:
                return not actor.is_finished
            self.step_actor(actor)
        raise AssertionError(
            f"{actor.name}: expected the work to end, found more requests than any work needs"
        )

    def run_to_end(self, actor: Actor | None) -> None:
        """Run an actor, if there is one, to completion."""
        if actor:
            self.run_until(actor, "\n")

    def kill_actor(self, actor: Actor) -> None:
        """Kill an actor, as kill -9 does."""
        self.step_actor(actor, RequestFate.KILLED)

    def _check_actor(self, actor: Actor) -> None:
        if not actor.is_finished:
            return
        with suppress(ValueError):
            self.running_actors.remove(actor)
        if actor.error and not isinstance(actor.error, StoreUnavailable | RedisError):
            raise actor.error

    # -- quiescence --------------------------------------------------------------------------------
    def run_pending_work(self) -> None:
        """Do all work that waits in Redis, without the watchdog.

        Raises `OracleFailure` if that does not end.
        """
        for _ in range(MAX_WORK_ITEMS):
            if not self._run_next_item():
                return
        raise OracleFailure(
            "expected all work to end without the watchdog, "
            f"found that work remains: {self._describe_remaining()}"
        )

    def _run_next_item(self) -> bool:
        if self._get_length(FAST_EVENTS):
            self.run_to_end(self.start_listener())
        elif self._get_length(EVENTS_QUEUE):
            self.run_to_end(self.start_worker(EVENTS_QUEUE))
        elif self._get_length(BULK_QUEUE):
            self.run_to_end(self.start_worker(BULK_QUEUE))
        elif self._has_work_for_publisher() and not self._is_writer_active():
            self.run_to_end(self.start_publisher(0) or self.start_publisher(SPARE_NUMBER))
        else:
            return False
        return True

    def _has_work_for_publisher(self) -> bool:
        return bool(
            self._redis.hlen(PENDING_RESULTS)
            or self._get_length(WAKE_LIVE)
            or self._get_length(WAKE_BULK)
        )

    def _is_writer_active(self) -> bool:
        return bool(self._redis.exists(WRITER_LEASE))

    def _get_length(self, key: str) -> int:
        return int(self._redis.llen(key))

    def run_until_quiet(
        self, deliver: Callable[[], None], pass_time: Callable[[float], None]
    ) -> None:
        """Deliver events, do all work and run watchdog ticks until no work is left.

        Raises `OracleFailure` if that does not end.
        """
        for _ in range(MAX_ROUNDS):
            deliver()
            self.run_pending_work()
            pass_time(ROUND_INTERVAL_S)
            self.run_to_end(self.start_watchdog() or self.start_watchdog(SPARE_NUMBER))
            self.run_pending_work()
            if not self._describe_remaining():
                return
        raise OracleFailure(
            f"expected no work to be left after {MAX_ROUNDS} watchdog ticks, "
            f"found: {self._describe_remaining()}"
        )

    def _describe_remaining(self) -> str:
        lists = (FAST_EVENTS, EVENTS_QUEUE, BULK_QUEUE, PAGES)
        remaining = [key for key in lists if self._redis.llen(key)]
        hashes = (CHANGE_VERSIONS, READ_VERSIONS, PENDING_RESULTS, PENDING_CHANGE_VERSIONS)
        remaining += [key for key in hashes if self._redis.hlen(key)]
        remaining += [key for key in (REBUILD_QUEUED, REBUILD_RUNNING) if self._redis.exists(key)]
        loss_signals = self.components.state.loss_signals
        if loss_signals.trust_state() != TrustState("verified", loss_signals.run_id()):
            remaining.append(f"trust state {loss_signals.trust_state()}")
        published_record = self.components.state.publish_queue.last_publish()
        recorded_etags = (published_record.output_etag, published_record.rejects_etag)
        output = self.components.output
        if (output.get_etag(OUTPUT_KEY), output.get_etag(REJECTS_KEY)) != recorded_etags:
            remaining.append("published files that no publisher has recorded")
        return ", ".join(remaining)

    def resolve_actors(self, fates: Sequence[int]) -> list[Actor]:
        """Apply `fates`, which is repeated over the paused actors, and return those left paused.

        Fate 0 runs an actor to completion, 1 kills it, 2 leaves it paused.
        """
        paused_actors = []
        for number, actor in enumerate(list(self.running_actors)):
            match fates[number % len(fates)]:
                case 0:
                    self.run_to_end(actor)
                case 1:
                    self.kill_actor(actor)
                case _:
                    paused_actors.append(actor)
        return paused_actors

    def finish_actors(self) -> None:
        """Run all paused actors to completion."""
        for actor in list(self.running_actors):
            self.run_to_end(actor)
