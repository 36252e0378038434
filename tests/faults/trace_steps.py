"""The steps from which traces are composed."""

from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor, RequestFate
from tests.faults.world import World


def deliver_and_mark(world: World) -> None:
    """Deliver all events, and let the listener mark their users."""
    world.events.deliver_all()
    world.processes.run_to_end(world.processes.start_listener())


class StopNotReached(AssertionError):
    """An actor ended before it reached a request: the trace does not fit this Rowdrop."""


def put_csv(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV, and deliver its event."""
    world.user_actions.put_csv(user, content)
    deliver_and_mark(world)


def put_without_event(
    world: World, content: str, user: str = "a", *, counted: bool = False
) -> None:
    """Drop a CSV, and lose its event.

    If `counted`, MinIO counts the loss. Otherwise the loss leaves no trace.
    """
    world.user_actions.put_csv(user, content)
    world.lose_event(-1, is_counted=counted)


def put_with_event(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV, and deliver its event to the list."""
    world.user_actions.put_csv(user, content)
    world.events.deliver(-1)


def read_next_message(world: World) -> None:
    """Let a worker process the next message of the event queue."""
    world.processes.run_to_end(world.processes.start_worker(EVENTS_QUEUE))


def run_publisher(world: World, number: int = 0, *, with_manifest: bool = True) -> None:
    """Publish all pending results, and write the manifest if `with_manifest`."""
    world.processes.run_to_end(world.processes.start_publisher(number, with_manifest=with_manifest))


def publish_csv(world: World, content: str, user: str = "a", *, with_manifest: bool = True) -> None:
    """Drop a CSV, read it and publish its row."""
    put_csv(world, content, user)
    read_next_message(world)
    run_publisher(world, with_manifest=with_manifest)


def submit_csv(world: World, content: str, user: str = "a") -> None:
    """Drop a CSV and read it, so that its result is pending."""
    put_csv(world, content, user)
    read_next_message(world)


def run_watchdog(world: World, times: int = 1) -> None:
    """Run this many watchdog ticks."""
    for _ in range(times):
        world.processes.run_to_end(world.processes.start_watchdog())


def expire_lease(world: World) -> None:
    """Let the writer lease expire."""
    world.pass_time(6)


def run_until_request(world: World, actor: Actor | None, request: str) -> Actor:
    """Run an actor until it is paused before this request, and return it.

    Raises `StopNotReached` if it ends first.
    """
    assert actor
    if not world.processes.run_until(actor, request):
        raise StopNotReached(
            f"{actor.name}: expected it to pause before {request!r}, found that it ended first"
        )
    return actor


def start_reader(world: World, before: str, *, keep_message: bool = False) -> Actor:
    """Return a worker that is paused before this request.

    If `keep_message`, its message stays in the queue for another worker.
    """
    return run_until_request(
        world, world.processes.start_worker(EVENTS_QUEUE, keep_message=keep_message), before
    )


def start_publisher(world: World, before: str, number: int = 0) -> Actor:
    """Return a publisher that is paused before this request."""
    return run_until_request(
        world, world.processes.start_publisher(number, with_manifest=False), before
    )


def start_listener(world: World, before: str) -> Actor:
    """Return a listener that is paused before this request."""
    return run_until_request(world, world.processes.start_listener(), before)


def start_sweep(world: World, before: str) -> Actor:
    """Return a sweep that is paused before this request.

    A sweep is enqueued unless one is queued already.
    """
    if not world.redis.llen(BULK_QUEUE):
        world.processes.components.tasks.sweep("test")
    return run_until_request(world, world.processes.start_worker(BULK_QUEUE), before)


def start_sweep_past_list(world: World) -> Actor:
    """Return a sweep that is paused after its LIST, before it reads the dirty users."""
    running_sweep = start_sweep(world, "source LIST")
    world.processes.step_actor(running_sweep)
    return run_until_request(world, running_sweep, "HKEYS")


def run_to_end(world: World, *actors: Actor) -> None:
    """Run these actors to completion."""
    for actor in actors:
        world.processes.run_to_end(actor)


def kill_process(world: World, actor: Actor) -> None:
    """Kill an actor, as kill -9 does."""
    world.processes.kill_actor(actor)


def defer_write_and_kill(world: World, actor: Actor) -> None:
    """Make the actor's current write a late write, and kill the actor."""
    world.processes.step_actor(actor, RequestFate.LATE)
    world.processes.kill_actor(actor)
