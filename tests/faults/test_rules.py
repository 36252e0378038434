"""Each rule of the state protocol is necessary: without it the oracle reports a divergence.

The traces of the fault cases show that, and so do random histories.

Some rules have no removal, because another mechanism compensates for them and the oracle sees no
difference:

- marks leave the read version (`slot`) alone: otherwise a key that is written without a pause would
  never be read
- CLEAN removes only the entry that it published: the watchdog has the user read once more
- submitting a result wakes the publisher: it also looks every five seconds
- the watchdog looks twice before it treats files as a loss signal: otherwise sweeps run needlessly
- a publisher's death is a loss signal: the watchdog finds its files
"""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis.errors import FlakyFailure

from tests.faults.conftest import NewWorld
from tests.faults.form import Form
from tests.faults.holes import HOLES
from tests.faults.machine import Tally, have_histories
from tests.faults.oracle import Divergence
from tests.faults.parts import Parts
from tests.faults.removals import REMOVALS

SHOWN = [(rule, name) for name, hole in HOLES.items() for rule in hole.rules]
SOON = ("writes are conditional", "a refused write discards the batch too")
"""Rules with a removal that random histories detect early, so the short form tests them."""


@pytest.mark.parametrize("name", HOLES)
def test_with_all_rules_the_trace_of_a_hole_does_no_harm(new_world: NewWorld, name: str) -> None:
    world = new_world(Parts)
    world.settle()
    HOLES[name].trace(world)
    world.end([0])


@pytest.mark.parametrize(("rule", "name"), SHOWN)
def test_without_its_rule_the_trace_of_a_hole_does_harm(new_world: NewWorld, rule: str, name: str) -> None:
    world = new_world(REMOVALS[rule])
    with pytest.raises(Divergence):
        world.settle()
        HOLES[name].trace(world)
        world.end([0])
    world.close()


def test_each_rule_closes_a_hole() -> None:
    assert {rule for rule, _ in SHOWN} == REMOVALS.keys()


@pytest.mark.usefixtures("quiet_log")
def test_random_histories_miss_a_rule_that_is_taken_away(
    form: Form, new_world: NewWorld, record_property: Callable[[str, object], None]
) -> None:
    unseen = []
    for rule in REMOVALS if form.long else SOON:
        tally = Tally()
        settings = form.settings(short=300, long=5000, shrink=False)
        try:
            have_histories(form.seed, settings, partial(new_world, REMOVALS[rule]), tally)
            unseen.append(rule)
        except (Divergence, FlakyFailure):
            record_property(f"rule removed: {rule}", f"divergence in history {tally.histories}")
    assert unseen == []
