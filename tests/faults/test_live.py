"""Some faults on a complete Rowdrop, in their short form.

`python -m tests.faults` runs all faults, in their long form.
"""

import pytest

from tests.faults.live.scenarios import SCENARIOS, run_scenario


@pytest.mark.parametrize(
    "name", [name for name, scenario in SCENARIOS.items() if scenario.in_short_form]
)
def test_live_scenario_loses_no_row_and_serves_none_stale(name: str) -> None:
    finding = run_scenario(name, seed=1, long=False)
    assert finding.failures == []
    assert finding.acknowledged > 0
