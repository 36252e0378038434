"""Random histories with all faults: no update is lost, and no stale row is served.

`tests/faults/case_form.py` explains the number of histories and the seed.
"""

from collections.abc import Callable

import pytest

from shared.redis_keys import FAST_EVENTS
from tests.faults.case_form import CaseForm
from tests.faults.conftest import WorldFactory
from tests.faults.machine import run_histories
from tests.faults.parts import Components

pytestmark = pytest.mark.usefixtures("silence_warnings")


def test_random_histories_lose_nothing_on_fakes(
    form: CaseForm, make_world: WorldFactory, record_property: Callable[[str, object], None]
) -> None:
    tally = run_histories(
        form.seed, form.build_settings(short=250, long=2500), lambda: make_world(Components)
    )
    record_property("histories on fakes", str(tally))


def test_random_histories_lose_nothing_on_real_servers(
    form: CaseForm, make_real_world: WorldFactory, record_property: Callable[[str, object], None]
) -> None:
    tally = run_histories(
        form.seed, form.build_settings(short=6, long=80), lambda: make_real_world(Components)
    )
    record_property("histories on real servers", str(tally))


@pytest.mark.parametrize("waiting", [1, 2])
def test_real_bucket_pair_takes_only_its_own_events(
    make_real_world: WorldFactory, waiting: int
) -> None:
    """Events that were delivered before the write stay in the list, also those of the same key."""
    world = make_real_world(Components)
    try:
        for _ in range(waiting):
            world.user_actions.put_csv("a", "A")
            world.user_actions.put_csv("b", "B")
            world.events.deliver(0, 2)
        before = world.redis.lrange(FAST_EVENTS, 0, -1)
        world.user_actions.put_csv("a", "C")
        world.user_actions.delete_many(["b.csv", "ghost.csv"])
        assert len(before) == 2 * waiting
        assert world.redis.lrange(FAST_EVENTS, 0, -1) == before
    finally:
        world.close()
