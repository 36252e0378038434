"""Races and losses that once broke bundles or image copies; each was found by a random history."""

from shared.formats.object_names import CATALOG_KEY
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor
from tests.faults.conftest import WorldFactory
from tests.faults.parts import Components
from tests.faults.trace_steps import (
    deliver_and_mark,
    run_to_end,
    run_until_request,
    start_sweep,
)
from tests.faults.world import World
from worker.bundles.catalog import read_catalog


def bundle(world: World, key: str, members: dict[str, str], images: str = "") -> None:
    """Drop a bundle and deliver its event."""
    world.user_actions.put_bundle(key, members, images)
    deliver_and_mark(world)


def start_unpacker(world: World, before: str) -> Actor:
    """Return a worker that is suspended before this request of an unpack."""
    return run_until_request(world, world.processes.start_worker(BULK_QUEUE), before)


def check_final_state(world: World) -> None:
    """Let all processes finish and compare the output with the source bucket."""
    world.finish_and_check([0])
    world.close()


def test_unpacker_that_is_slow_does_not_restore_older_version(make_world: WorldFactory) -> None:
    """A suspended worker cannot publish an older version of a bundle after a newer one."""
    # Worker 1 unpacks the first version and is suspended. Worker 2 rejects the second version,
    # which is invalid. Then worker 1 resumes.
    for place in (
        "PUT .bundles",
        "index",
        "TAKE_OWNERSHIP",
        "PUT bundles.json",
        "RENEW_CATALOG_VERSION",
    ):
        world = make_world(Components)
        world.quiesce_and_check()
        bundle(world, "u.zip", {"c": "A"})
        world.processes.run_pending_work()
        bundle(world, "v.tar", {"d": "A"}, "c")
        start_unpacker(world, place)
        world.user_actions.put_bundle("v.tar", {}, ())
        world.quiesce_and_check()
        check_final_state(world)


def test_unpackers_of_one_bundle_end_in_newer_version(make_world: WorldFactory) -> None:
    """Two concurrent workers on one bundle publish the newer version."""
    for place in (
        "PUT .bundles",
        "RENEW_LEASE",
        "TAKE_OWNERSHIP",
        "PUT bundles.json",
        "RENEW_CATALOG_VERSION",
        "MARK",
        "SUBMIT_RESULTS",
    ):
        world = make_world(Components)
        world.quiesce_and_check()
        bundle(world, "u.zip", {"c": "A", "d": "A"}, "cd")
        slow = start_unpacker(world, place)
        world.pass_time(61)  # its unpack lease expires
        bundle(world, "u.zip", {"c": "B"}, "c")
        world.processes.run_pending_work()
        world.processes.run_to_end(slow)
        check_final_state(world)


def test_unpacker_without_lease_shows_no_deleted_folder(make_world: WorldFactory) -> None:
    """A worker that lost the unpack lease writes no entry for a folder that a sweep deleted."""
    world = make_world(Components)
    world.quiesce_and_check()
    bundle(world, "u.zip", {"c": "A"}, "c")
    slow = start_unpacker(world, "index")
    world.pass_time(61)  # its unpack lease expires
    run_to_end(world, start_sweep(world, "source LIST"), slow)
    assert read_catalog(world.output_bucket)[0].entries == {}
    check_final_state(world)


def test_unpacker_killed_at_any_step_leaves_nothing_partial(make_world: WorldFactory) -> None:
    """A worker that is killed before any of its requests leaves no partial state."""
    for place in (
        "HEAD u.zip",
        "PUT .bundles",
        "index",
        "RENEW_LEASE",
        "TAKE_OWNERSHIP",
        "PUT bundles.json",
        "RENEW_CATALOG_VERSION",
        "MARK",
        "LIST",
        "SUBMIT_RESULTS",
    ):
        world = make_world(Components)
        world.quiesce_and_check()
        bundle(world, "u.zip", {"c": "A", "d": "A"}, "cd")
        world.processes.run_pending_work()
        bundle(world, "u.zip", {"c": "B"}, "d")
        world.processes.kill_actor(start_unpacker(world, place))
        check_final_state(world)


def test_catalog_deleted_before_write_is_detected(make_world: WorldFactory) -> None:
    """A catalog that is deleted by hand just before a write is detected as lost."""
    # The new catalog lacks the entry of the other bundle and the previous users of this one. Its
    # ETag is recorded, so a later comparison of ETags does not detect the loss.
    world = make_world(Components)
    world.quiesce_and_check()
    bundle(world, "u.zip", {"c": "A"})
    bundle(world, "v.tar", {"d": "A"})
    world.processes.run_pending_work()
    world.delete_published_file(CATALOG_KEY)
    bundle(world, "u.zip", {})
    world.processes.run_pending_work()
    check_final_state(world)


def test_sweep_removes_copy_of_user_without_row(make_world: WorldFactory) -> None:
    """An image copy that was made while the user had no row is deleted by the next sweep."""
    # The CSV in the bundle is invalid, so no row names the image copy. Then the user's own CSV and
    # image are dropped.
    world = make_world(Components)
    world.quiesce_and_check()
    bundle(world, "u.zip", {"c": "x"}, "c")
    world.processes.run_pending_work()
    world.user_actions.put_csv("c", "A")
    world.user_actions.put_image("c", "png")
    deliver_and_mark(world)
    run_until_request(world, world.processes.start_worker(EVENTS_QUEUE), "source GET")
    world.finish_and_check([1])
    world.close()
