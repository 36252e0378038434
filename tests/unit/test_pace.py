"""Tests of `shared.pace`: the throttle that limits work to a share of the time."""

import pytest

from shared.pace import Pace


class Clock:
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_work_on_an_idle_system_begins_at_once() -> None:
    assert Pace(0.2, 0.1, Clock()).wait_s() == 0


def test_pieces_that_fit_into_the_burst_follow_each_other_at_once() -> None:
    pace = Pace(0.2, 0.1, Clock())
    pace.spent(0.03)
    pace.spent(0.03)
    assert pace.wait_s() == 0


def test_what_was_spent_beyond_the_burst_is_waited_for() -> None:
    clock = Clock()
    pace = Pace(0.2, 0.1, clock)
    clock.now += 1.0
    pace.spent(1.0)
    # At a share of 0.2, 1 s of work needs 5 s. 1 s has passed, and the burst covers half a second.
    assert pace.wait_s() == pytest.approx(5 - 1 - 0.1 / 0.2)


def test_after_the_wait_the_next_piece_begins_at_once() -> None:
    clock = Clock()
    pace = Pace(0.2, 0.1, clock)
    pace.spent(1.0)
    clock.now += pace.wait_s()
    assert pace.wait_s() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("piece_s", [0.001, 0.05, 2.0])
def test_work_without_end_gets_its_share_whatever_the_length_of_its_pieces(piece_s: float) -> None:
    clock = Clock()
    pace = Pace(0.25, 0.1, clock)
    worked = 0.0
    while clock.now < 1000 + 2000 * piece_s:
        clock.now += pace.wait_s()
        clock.now += piece_s
        worked += piece_s
        pace.spent(piece_s)
    share = 0.25 * (clock.now - 1000)
    assert share - 1e-6 < worked < share + 0.1 + piece_s + 1e-6


def test_nobody_waits_longer_than_was_said_whatever_went_before() -> None:
    # A publisher that waited for the whole deficit of a long burst before it publishes a sweep's
    # rows would appear to hang.
    clock = Clock()
    pace = Pace(0.2, 0.1, clock, 2.0)
    for _ in range(100):
        clock.now += 1
        pace.spent(1.0)
    assert pace.wait_s() == pytest.approx(2.0)
    clock.now += 2.0
    assert pace.wait_s() == pytest.approx(0, abs=1e-9)


def test_a_long_rest_earns_no_more_than_one_burst() -> None:
    clock = Clock()
    pace = Pace(0.5, 0.1, clock)
    clock.now += 3600
    pace.spent(0.4)
    assert pace.wait_s() == pytest.approx((0.4 - 0.1) / 0.5 - 0.4)


@pytest.mark.parametrize(("share", "burst_s"), [(0, 1), (-0.1, 1), (1.5, 1), (0.5, -1)])
def test_a_share_that_is_none_is_refused(share: float, burst_s: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Pace(share, burst_s, Clock())
