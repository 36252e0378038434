"""Some faults on a complete Rowdrop, in their short form.

`python -m tests.faults` runs all faults, in their long form.
"""

import pytest

from tests.faults.live.scenarios import SCENARIOS, play


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.short])
def test_nothing_is_lost_or_stale(name: str) -> None:
    finding = play(name, seed=1, long=False)
    assert finding.failures == []
    assert finding.acknowledged > 0
