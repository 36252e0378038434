"""Random histories, with every fault: nothing lost, nothing stale.  How to run them: `tests/faults/form.py`."""

from collections.abc import Callable

import pytest

from tests.faults.conftest import NewWorld
from tests.faults.form import Form
from tests.faults.machine import have_histories
from tests.faults.parts import Parts

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
