"""Races and losses that once broke bundles or image copies; each was found by a random history."""

from shared.published import BUNDLES
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor
from tests.faults.conftest import NewWorld
from tests.faults.parts import Parts
from tests.faults.steps import stopped, told
from tests.faults.world import World


def bundle(world: World, key: str, members: dict[str, str], images: str = "") -> None:
    """Drop a bundle and deliver its event."""
    world.drops.bundle(key, members, images)
    told(world)


def unpacking(world: World, before: str) -> Actor:
    """Return a worker that is suspended before this request of an unpack."""
    return stopped(world, world.processes.worker(BULK_QUEUE), before)


def finished(world: World) -> None:
    """Let all processes finish and compare the output with the source bucket."""
    world.end([0])
    world.close()


def test_a_slow_unpacker_does_not_put_an_older_version_on_the_shelf(new_world: NewWorld) -> None:
    """A suspended worker cannot publish an older version of a bundle after a newer one."""
    # Worker 1 unpacks the first version and is suspended. Worker 2 rejects the second version,
    # which is invalid. Then worker 1 resumes.
    for place in ("PUT .bundles", "index", "CLAIM", "PUT bundles.json", "RELEASE"):
        world = new_world(Parts)
        world.settle()
        bundle(world, "u.zip", {"c": "A"})
        world.processes.pump()
        bundle(world, "v.tar", {"d": "A"}, "c")
        unpacking(world, place)
        world.drops.bundle("v.tar", {}, ())
        world.settle()
        finished(world)


def test_two_unpackers_of_one_bundle_end_in_the_newer_version(new_world: NewWorld) -> None:
    """Two concurrent workers on one bundle publish the newer version."""
    for place in ("PUT .bundles", "CLAIM", "PUT bundles.json", "RELEASE", "MARK", "STAGE"):
        world = new_world(Parts)
        world.settle()
        bundle(world, "u.zip", {"c": "A", "d": "A"}, "cd")
        slow = unpacking(world, place)
        world.pass_time(61)  # its unpack lease expires
        bundle(world, "u.zip", {"c": "B"}, "c")
        world.processes.pump()
        world.processes.run(slow)
        finished(world)


def test_an_unpacker_that_dies_anywhere_leaves_nothing_half_done(new_world: NewWorld) -> None:
    """A worker that is killed before any of its requests leaves no partial state."""
    for place in (
        "HEAD u.zip",
        "PUT .bundles",
        "index",
        "CLAIM",
        "PUT bundles.json",
        "RELEASE",
        "MARK",
        "LIST",
        "STAGE",
    ):
        world = new_world(Parts)
        world.settle()
        bundle(world, "u.zip", {"c": "A", "d": "A"}, "cd")
        world.processes.pump()
        bundle(world, "u.zip", {"c": "B"}, "d")
        world.processes.kill(unpacking(world, place))
        finished(world)


def test_a_shelf_deleted_by_hand_just_before_it_is_written_is_missed(new_world: NewWorld) -> None:
    """A catalog that is deleted by hand just before a write is detected as lost."""
    # The new catalog lacks the entry of the other bundle and the previous users of this one. Its
    # ETag is recorded, so a later comparison of ETags does not detect the loss.
    world = new_world(Parts)
    world.settle()
    bundle(world, "u.zip", {"c": "A"})
    bundle(world, "v.tar", {"d": "A"})
    world.processes.pump()
    world.delete_published(BUNDLES)
    bundle(world, "u.zip", {})
    world.processes.pump()
    finished(world)


def test_a_copy_of_somebody_whose_row_is_none_goes_with_the_next_sweep(new_world: NewWorld) -> None:
    """An image copy that was made while the user had no row is deleted by the next sweep."""
    # The CSV in the bundle is invalid, so no row names the image copy. Then the user's own CSV and
    # image are dropped.
    world = new_world(Parts)
    world.settle()
    bundle(world, "u.zip", {"c": "x"}, "c")
    world.processes.pump()
    world.drops.csv("c", "A")
    world.drops.image("c", "png")
    told(world)
    stopped(world, world.processes.worker(EVENTS_QUEUE), "source GET")
    world.end([1])
    world.close()
