"""The steps from which traces are composed."""

from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor, Verdict
from tests.faults.transit import WAYS
from tests.faults.world import World
from worker.backlog import FAST, SAFE


def told(world: World) -> None:
    """Deliver all events, and let the listener mark their users."""
    world.transit.deliver_all()
    world.processes.run(world.processes.listener())


class CannotStop(AssertionError):
    """An actor ended before it reached a request: the trace does not fit this Rowdrop."""


def put(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV, and deliver its event."""
    world.drops.csv(user, content)
    told(world)


def put_unheard(world: World, content: str, user: str = "a", *, counted: bool = False) -> None:
    """Drop a CSV, and lose all copies of its event.

    If `counted`, MinIO counts the loss. Otherwise the loss leaves no trace.
    """
    world.drops.csv(user, content)
    for way in WAYS:
        world.lose_event(way, -1, traced=counted)


def put_fast_only(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV with an event in the fast list and without a durable copy.

    A real MinIO delivers the durable copy some seconds later.
    """
    world.drops.csv(user, content)
    world.transit.deliver(FAST, -1)
    world.transit.waiting.get(SAFE, []).clear()


def read(world: World) -> None:
    """Let a worker process the next message of the event queue."""
    world.processes.run(world.processes.worker(EVENTS_QUEUE))


def publish(world: World, number: int = 0, *, memo: bool = True) -> None:
    """Publish all pending results, and write the manifest if `memo`."""
    world.processes.run(world.processes.publisher(number, memo=memo))


def land(world: World, content: str, user: str = "a", *, memo: bool = True) -> None:
    """Drop a CSV, read it and publish its row."""
    put(world, content, user)
    read(world)
    publish(world, memo=memo)


def staged(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV and read it, so that its result is pending."""
    put(world, content, user)
    read(world)


def look(world: World, times: int = 1) -> None:
    """Run this many watchdog ticks."""
    for _ in range(times):
        world.processes.run(world.processes.watch())


def lease_ends(world: World) -> None:
    """Let the writer lease expire."""
    world.pass_time(6)


def stopped(world: World, actor: Actor | None, request: str) -> Actor:
    """Run an actor until it is paused before this request, and return it.

    Raises `CannotStop` if it ends first.
    """
    assert actor
    if not world.processes.until(actor, request):
        raise CannotStop(f"{actor.name}: expected it to pause before {request!r}, found that it ended first")
    return actor


def reader(world: World, before: str, *, twice: bool = False) -> Actor:
    """Return a worker that is paused before this request.

    If `twice`, its message stays in the queue for another worker.
    """
    return stopped(world, world.processes.worker(EVENTS_QUEUE, twice=twice), before)


def publisher(world: World, before: str, number: int = 0) -> Actor:
    """Return a publisher that is paused before this request."""
    return stopped(world, world.processes.publisher(number, memo=False), before)


def listener(world: World, before: str) -> Actor:
    """Return a listener that is paused before this request."""
    return stopped(world, world.processes.listener(), before)


def sweep(world: World, before: str) -> Actor:
    """Return a sweep that is paused before this request.

    A sweep is enqueued unless one is queued already.
    """
    if not world.redis.llen(BULK_QUEUE):
        world.processes.parts.tasks.sweep("test")
    return stopped(world, world.processes.worker(BULK_QUEUE), before)


def sweep_that_has_listed(world: World) -> Actor:
    """Return a sweep that is paused after its LIST, before it reads the dirty users."""
    under_way = sweep(world, "source LIST")
    world.processes.step(under_way)
    return stopped(world, under_way, "HKEYS")


def go_on(world: World, *actors: Actor) -> None:
    """Run these actors to completion."""
    for actor in actors:
        world.processes.run(actor)


def kill(world: World, actor: Actor) -> None:
    """Kill an actor, as kill -9 does."""
    world.processes.kill(actor)


def written_later(world: World, actor: Actor) -> None:
    """Make the actor's current write a late write, and kill the actor."""
    world.processes.step(actor, Verdict.LATE)
    world.processes.kill(actor)
