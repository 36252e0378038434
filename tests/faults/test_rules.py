"""Each rule of the state protocol, taken away, is missed: by the trace of its hole, and by random histories.

What the oracle cannot see, because something else makes up for it, has no removal: that marks leave the slot alone (a
key that is written without a pause would never be read), that CLEAN forgets only the entry it published (the watch has
it read once more), that staging wakes the publisher (it looks every five seconds), that the watch looks twice before
it calls files evidence (sweeps for nothing), and that a publisher's death is evidence (the watch finds its files).
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
"""Rules that random histories miss soon."""


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
            record_property(f"without the rule that {rule}", f"a divergence in history {tally.histories}")
    assert unseen == []
