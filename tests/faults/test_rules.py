"""Each rule of the state protocol is necessary: without it the oracle reports a divergence.

The traces of the fault cases show that, and so do random histories.

Some rules have no removal, because another mechanism compensates for them and the oracle sees no
difference:

- marks leave the read version alone: otherwise a key that is written without a pause would
  never be read
- COMMIT PUBLISH removes only the entry that it published: the watchdog has the user read once more
- submitting a result wakes the publisher: it also looks every five seconds
- the watchdog looks twice before it treats files as a loss signal: otherwise sweeps run needlessly
- a publisher's death is a loss signal: the watchdog finds its files
"""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis.errors import FlakyFailure

from tests.faults.case_form import CaseForm
from tests.faults.conftest import WorldFactory
from tests.faults.machine import Tally, run_histories
from tests.faults.oracle import OracleFailure
from tests.faults.parts import Components
from tests.faults.removals import REMOVALS
from tests.faults.traces import TRACES

TRACED_RULES = [
    (rule, name) for name, register_trace in TRACES.items() for rule in register_trace.rules
]
SHORT_FORM_RULES = ("writes are conditional", "a refused write discards the batch too")
"""Rules with a removal that random histories detect early, so the short form tests them."""
BATCH_SIZE = 50
"""Histories that are generated from one seed."""


@pytest.mark.parametrize("name", TRACES)
def test_protocol_trace_is_harmless_with_all_rules(make_world: WorldFactory, name: str) -> None:
    world = make_world(Components)
    world.quiesce_and_check()
    TRACES[name].trace(world)
    world.finish_and_check([0])


@pytest.mark.parametrize(("rule", "name"), TRACED_RULES)
def test_protocol_trace_does_harm_without_its_rule(
    make_world: WorldFactory, rule: str, name: str
) -> None:
    world = make_world(REMOVALS[rule])
    with pytest.raises(OracleFailure):
        world.quiesce_and_check()
        TRACES[name].trace(world)
        world.finish_and_check([0])
    world.close()


def test_protocol_rules_each_have_a_trace() -> None:
    assert {rule for rule, _ in TRACED_RULES} == REMOVALS.keys()


@pytest.mark.usefixtures("silence_warnings")
def test_random_histories_detect_a_removed_rule(
    form: CaseForm, make_world: WorldFactory, record_property: Callable[[str, object], None]
) -> None:
    undetected_rules = []
    for rule in REMOVALS if form.long else SHORT_FORM_RULES:
        tally = Tally()
        # Hypothesis varies what it has generated, so histories of one seed often begin alike. The
        # search ends at the first divergence.
        settings = form.build_settings(short=BATCH_SIZE, long=BATCH_SIZE, shrink=False)
        try:
            for batch in range(form.case_count(short=40, long=100)):
                seed = form.seed + batch
                run_histories(seed, settings, partial(make_world, REMOVALS[rule]), tally)
            undetected_rules.append(rule)
        except (OracleFailure, FlakyFailure):
            record_property(f"rule removed: {rule}", f"divergence in history {tally.histories}")
    assert undetected_rules == []
