"""Random histories with all faults: no update is lost, and no stale row is served.

`tests/faults/form.py` explains the number of histories and the seed.
"""

from collections.abc import Callable

import pytest

from tests.faults.conftest import NewWorld
from tests.faults.form import Form
from tests.faults.machine import have_histories
from tests.faults.parts import Parts
from worker.backlog import FAST

pytestmark = pytest.mark.usefixtures("quiet_log")


def test_nothing_is_lost_or_stale_in_any_history(
    form: Form, new_world: NewWorld, record_property: Callable[[str, object], None]
) -> None:
    tally = have_histories(form.seed, form.settings(short=250, long=2500), lambda: new_world(Parts))
    record_property("histories on fakes", str(tally))


def test_nothing_is_lost_or_stale_in_any_history_on_real_servers(
    form: Form, new_real_world: NewWorld, record_property: Callable[[str, object], None]
) -> None:
    tally = have_histories(form.seed, form.settings(short=6, long=80), lambda: new_real_world(Parts))
    record_property("histories on real servers", str(tally))


@pytest.mark.parametrize("waiting", [1, 2])
def test_a_write_on_real_servers_takes_only_its_own_events(new_real_world: NewWorld, waiting: int) -> None:
    """Events that were delivered before the write stay in the list, also those of the same key."""
    world = new_real_world(Parts)
    try:
        for _ in range(waiting):
            world.drops.csv("a", "A")
            world.drops.csv("b", "B")
            world.transit.deliver(FAST, 0, 2)
        before = world.redis.lrange(FAST, 0, -1)
        world.drops.csv("a", "C")
        world.drops.delete_many(["b.csv", "ghost.csv"])
        assert len(before) == 2 * waiting
        assert world.redis.lrange(FAST, 0, -1) == before
    finally:
        world.close()
