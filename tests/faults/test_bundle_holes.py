"""Orders of things in which bundles, or copies of images, would go wrong; each found by a random history."""

from shared.published import BUNDLES
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor
from tests.faults.conftest import NewWorld
from tests.faults.parts import Parts
from tests.faults.steps import stopped, told
from tests.faults.world import World


def bundle(world: World, key: str, members: dict[str, str], images: str = "") -> None:
    """It is dropped, and its event comes."""
    world.drops.bundle(key, members, images)
    told(world)


def unpacking(world: World, before: str) -> Actor:
    """A worker that stands in the midst of a bundle."""
    return stopped(world, world.processes.worker(BULK_QUEUE), before)


def finished(world: World) -> None:
    """Everything comes to rest, and must be right."""
    world.end([0])
    world.close()


def test_a_slow_unpacker_does_not_put_an_older_version_on_the_shelf(new_world: NewWorld) -> None:
    # W1 unpacks the first version, and sleeps; W2 looks at the second, which is broken, and is done; then W1 goes on.
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
    for place in ("PUT .bundles", "CLAIM", "PUT bundles.json", "RELEASE", "MARK", "STAGE"):
        world = new_world(Parts)
        world.settle()
        bundle(world, "u.zip", {"c": "A", "d": "A"}, "cd")
        slow = unpacking(world, place)
        world.pass_time(61)  # its sign of life is gone
        bundle(world, "u.zip", {"c": "B"}, "c")
        world.processes.pump()
        world.processes.run(slow)
        finished(world)


def test_an_unpacker_that_dies_anywhere_leaves_nothing_half_done(new_world: NewWorld) -> None:
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
    # The new shelf knows nothing of the other bundle, nor whom this one had before; and its own ETag is recorded.
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
    # The bundle's CSV is broken, so no row names the copy of its image; then an own CSV and image come.
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
