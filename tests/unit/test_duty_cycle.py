"""Tests of `shared.duty_cycle`: the throttle that limits work to a share of the time."""

import pytest

from shared.duty_cycle import DutyCycle


class Clock:
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_duty_cycle_starts_at_once_when_idle() -> None:
    assert DutyCycle(0.2, 0.1, Clock()).compute_wait_s() == 0


def test_duty_cycle_allows_work_within_burst() -> None:
    duty_cycle = DutyCycle(0.2, 0.1, Clock())
    duty_cycle.charge(0.03)
    duty_cycle.charge(0.03)
    assert duty_cycle.compute_wait_s() == 0


def test_duty_cycle_delays_work_beyond_burst() -> None:
    clock = Clock()
    duty_cycle = DutyCycle(0.2, 0.1, clock)
    clock.now += 1.0
    duty_cycle.charge(1.0)
    # At a share of 0.2, 1 s of work needs 5 s. 1 s has passed, and the burst covers half a second.
    assert duty_cycle.compute_wait_s() == pytest.approx(5 - 1 - 0.1 / 0.2)


def test_duty_cycle_allows_work_after_the_wait() -> None:
    clock = Clock()
    duty_cycle = DutyCycle(0.2, 0.1, clock)
    duty_cycle.charge(1.0)
    clock.now += duty_cycle.compute_wait_s()
    assert duty_cycle.compute_wait_s() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("piece_s", [0.001, 0.05, 2.0])
def test_duty_cycle_limits_continuous_work_to_fraction(piece_s: float) -> None:
    clock = Clock()
    duty_cycle = DutyCycle(0.25, 0.1, clock)
    worked = 0.0
    while clock.now < 1000 + 2000 * piece_s:
        clock.now += duty_cycle.compute_wait_s()
        clock.now += piece_s
        worked += piece_s
        duty_cycle.charge(piece_s)
    share = 0.25 * (clock.now - 1000)
    assert share - 1e-6 < worked < share + 0.1 + piece_s + 1e-6


def test_duty_cycle_limits_wait_time() -> None:
    """The wait is shorter than the whole deficit of a long burst.

    A publisher that waited for it before it publishes a sweep's rows would appear to hang.
    """
    clock = Clock()
    duty_cycle = DutyCycle(0.2, 0.1, clock, 2.0)
    for _ in range(100):
        clock.now += 1
        duty_cycle.charge(1.0)
    assert duty_cycle.compute_wait_s() == pytest.approx(2.0)
    clock.now += 2.0
    assert duty_cycle.compute_wait_s() == pytest.approx(0, abs=1e-9)


def test_duty_cycle_saves_at_most_one_burst() -> None:
    clock = Clock()
    duty_cycle = DutyCycle(0.5, 0.1, clock)
    clock.now += 3600
    duty_cycle.charge(0.4)
    assert duty_cycle.compute_wait_s() == pytest.approx((0.4 - 0.1) / 0.5 - 0.4)


@pytest.mark.parametrize(("share", "burst_s"), [(0, 1), (-0.1, 1), (1.5, 1), (0.5, -1)])
def test_duty_cycle_refuses_invalid_fraction(share: float, burst_s: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        DutyCycle(share, burst_s, Clock())
