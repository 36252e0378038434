"""The value of `consistent_as_of`."""

from dataclasses import replace

import pytest

from api.consistency import MARGIN_S, Consistency
from api.figures import Figures
from tests.api_parts import dirty

NOW = 1_800_000_000.0
FIGURES = Figures(
    ignored=(),
    ignored_total=0,
    dead_letters=(),
    dirty=dirty(),
    oldest_event=None,
    published_at=NOW - 90,
    sweep_at=NOW - 1800,
    whole=True,
    sees_losses=True,
    published_etag="e",
)


def as_of(figures: Figures, served: str | None = "e") -> float | None:
    consistency = Consistency()
    consistency.update(figures, served, NOW)
    return consistency.as_of


def test_with_nothing_to_do_it_is_the_moment_of_the_look_less_the_margin() -> None:
    assert as_of(FIGURES) == NOW - MARGIN_S


@pytest.mark.parametrize(
    "figures",
    [
        replace(FIGURES, dirty=dirty(rebuild=5)),  # a rebuild is no sign of drift
        replace(FIGURES, whole=False),  # the hourly sweep
    ],
)
def test_bulk_work_without_a_reason_does_not_hold_it_back(figures: Figures) -> None:
    assert as_of(figures) == NOW - MARGIN_S


@pytest.mark.parametrize("cause", ["bundle", "unpack"])
def test_it_stays_where_it_is_while_a_bundle_is_on_its_way(cause: str) -> None:
    consistency = Consistency()
    consistency.update(FIGURES, "e", NOW)
    before = consistency.as_of
    consistency.update(replace(FIGURES, dirty=dirty(**{cause: 1})), "e", NOW + 500)
    assert consistency.as_of == before
    consistency.update(FIGURES, "e", NOW + 600)
    assert consistency.as_of == NOW + 600 - MARGIN_S


def test_a_dirty_user_holds_it_back_to_before_the_mark() -> None:
    figures = replace(FIGURES, dirty=dirty(event=1), oldest_event=NOW - 40)
    assert as_of(figures) == NOW - 40 - MARGIN_S


def test_events_that_wait_hold_it_back_to_the_last_look_without_any() -> None:
    consistency = Consistency()
    consistency.update(FIGURES, "e", NOW)
    for seconds in (10, 20, 30):
        consistency.update(replace(FIGURES, waiting=3), "e", NOW + seconds)
    assert consistency.as_of == NOW - MARGIN_S
    consistency.update(FIGURES, "e", NOW + 40)
    assert consistency.as_of == NOW + 40 - MARGIN_S


@pytest.mark.parametrize(
    "figures",
    [
        replace(FIGURES, sound=False),
        replace(FIGURES, dirty=dirty(sweep=1)),
        replace(FIGURES, waiting=1),  # and no poll has found the inbox empty
        replace(FIGURES, published_etag="another"),
        replace(FIGURES, sees_losses=False, sweep_at=None),
    ],
)
def test_what_is_not_known_is_null(figures: Figures) -> None:
    assert as_of(figures) is None


def test_a_loss_that_becomes_known_takes_it_back() -> None:
    consistency = Consistency()
    consistency.update(FIGURES, "e", NOW)
    consistency.update(replace(FIGURES, sound=False), "e", NOW + 1)
    assert consistency.as_of is None


def test_while_this_process_shows_an_older_table_it_stays() -> None:
    consistency = Consistency()
    consistency.update(FIGURES, "e", NOW)
    consistency.update(replace(FIGURES, published_etag="f"), "e", NOW + 10)
    assert consistency.as_of == NOW - MARGIN_S
    consistency.update(replace(FIGURES, published_etag="f"), "f", NOW + 11)
    assert consistency.as_of == NOW + 11 - MARGIN_S


@pytest.mark.parametrize("blind", [{"sees_losses": False}, {"notified": False}, {"stuck_copies": 7}])
def test_where_losses_cannot_be_seen_only_a_sweep_knows(blind: dict[str, int]) -> None:
    assert as_of(replace(FIGURES, **blind)) == NOW - 1800  # type: ignore[arg-type]


def test_after_redis_was_away_it_waits_until_a_loss_would_have_been_noticed() -> None:
    consistency = Consistency()
    consistency.update(FIGURES, "e", NOW)
    consistency.redis_is_away()
    for seconds in (60, 60 + MARGIN_S - 1):
        consistency.update(FIGURES, "e", NOW + seconds)
        assert consistency.as_of == NOW - MARGIN_S
    consistency.update(FIGURES, "e", NOW + 60 + MARGIN_S)
    assert consistency.as_of == NOW + 60
