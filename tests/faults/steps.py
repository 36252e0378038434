"""The words in which a trace is told."""

from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor, Verdict
from tests.faults.transit import WAYS
from tests.faults.world import World
from worker.backlog import FAST, SAFE


def told(world: World) -> None:
    """All events come, and the listener marks their users."""
    world.transit.deliver_all()
    world.processes.run(world.processes.listener())


class CannotStop(AssertionError):
    """A process has come to its end before it came to a request: what is played does not fit this Rowdrop."""


def put(world: World, content: str, user: str = "a") -> None:
    """A CSV is dropped, and its event comes at once."""
    world.drops.csv(user, content)
    told(world)


def put_unheard(world: World, content: str, user: str = "a", *, counted: bool = False) -> None:
    """A CSV is dropped and its event lost; `counted` by MinIO, or without a trace."""
    world.drops.csv(user, content)
    for way in WAYS:
        world.lose_event(way, -1, traced=counted)


def put_fast_only(world: World, content: str, user: str = "a") -> None:
    """A CSV whose event is in Redis, and has no safe copy.  (That of a real MinIO comes some seconds later.)"""
    world.drops.csv(user, content)
    world.transit.deliver(FAST, -1)
    world.transit.waiting.get(SAFE, []).clear()


def read(world: World) -> None:
    """A worker takes a message and does it."""
    world.processes.run(world.processes.worker(EVENTS_QUEUE))


def publish(world: World, number: int = 0, *, memo: bool = True) -> None:
    """A publisher publishes all that is staged, and writes its memo if `memo`."""
    world.processes.run(world.processes.publisher(number, memo=memo))


def land(world: World, content: str, user: str = "a", *, memo: bool = True) -> None:
    """A CSV comes all the way into output.csv."""
    put(world, content, user)
    read(world)
    publish(world, memo=memo)


def staged(world: World, content: str, user: str = "a") -> None:
    """A CSV is dropped and read."""
    put(world, content, user)
    read(world)


def look(world: World, times: int = 1) -> None:
    """The watch looks."""
    for _ in range(times):
        world.processes.run(world.processes.watch())


def lease_ends(world: World) -> None:
    """Whoever writes has slept for too long."""
    world.pass_time(6)


def stopped(world: World, actor: Actor | None, request: str) -> Actor:
    """This process has come to that request, and stands before it."""
    assert actor
    if not world.processes.until(actor, request):
        raise CannotStop(f"{actor.name} has no {request}")
    return actor


def reader(world: World, before: str, *, twice: bool = False) -> Actor:
    """A worker that stands; `twice`: its message is still there for another."""
    return stopped(world, world.processes.worker(EVENTS_QUEUE, twice=twice), before)


def publisher(world: World, before: str, number: int = 0) -> Actor:
    """A publisher that stands."""
    return stopped(world, world.processes.publisher(number, memo=False), before)


def listener(world: World, before: str) -> Actor:
    """A listener that stands."""
    return stopped(world, world.processes.listener(), before)


def sweep(world: World, before: str) -> Actor:
    """A sweep that stands."""
    if not world.redis.llen(BULK_QUEUE):
        world.processes.parts.tasks.sweep("test")
    return stopped(world, world.processes.worker(BULK_QUEUE), before)


def sweep_that_has_listed(world: World) -> Actor:
    """A sweep that stands after its LIST, before it asks who is dirty."""
    under_way = sweep(world, "source LIST")
    world.processes.step(under_way)
    return stopped(world, under_way, "HKEYS")


def go_on(world: World, *actors: Actor) -> None:
    """They come to their ends."""
    for actor in actors:
        world.processes.run(actor)


def kill(world: World, actor: Actor) -> None:
    """kill -9."""
    world.processes.kill(actor)


def written_later(world: World, actor: Actor) -> None:
    """Its write is under way, and it is killed."""
    world.processes.step(actor, Verdict.LATE)
    world.processes.kill(actor)
