"""Readiness: when the service is ready, and the reasons if it is not."""

from dataclasses import replace

import pytest

from api.figures import Figures, LastSweep
from api.health import readiness
from api.snapshot import EMPTY
from api.view import View
from shared.output_csv import HEADER
from shared.records import Reject
from tests.api_parts import dirty

NOW = 1_800_000_000.0
HOUR = 3600.0
FIGURES = Figures(
    ignored=(),
    ignored_total=7,
    dead_letters=(),
    dirty=dirty(),
    oldest_event=None,
    published_at=NOW - 90,
    sweep_at=NOW - 1800,
    whole=True,
    sees_losses=True,
    sweep=LastSweep(NOW - 1800, "redis_emptied", 70_000, 3),
    evidence={"redis_emptied": 1},
    healed=2,
    counting_since=NOW - 3600,
)
REJECTS = {user_id: Reject(f"{user_id}.csv", user_id, "why", None, 0, "e") for user_id in ("1", "2", "3")}
VIEW = View(EMPTY.updated(HEADER + b"2,,,0,\n", "e"), REJECTS, FIGURES, looked_at=NOW - 1, heard_at=NOW - 1)


def test_all_well_is_ready_with_the_figures() -> None:
    answer = readiness(VIEW, HOUR, NOW)
    assert (answer["ready"], answer["reasons"], answer["warnings"]) == (True, [], [])
    assert (answer["rows"], answer["rejected"], answer["held"], answer["ignored"]) == (1, 2, 1, 7)
    assert answer["last_publish_at"] == "2027-01-15T07:58:30Z"
    assert answer["oldest_dirty_age_s"] is None


def test_it_tells_how_far_it_is_consistent_and_what_was_healed() -> None:
    answer = readiness(replace(VIEW, consistent_as_of=NOW - 30), HOUR, NOW)
    assert answer["consistent_as_of"] == "2027-01-15T07:59:30Z"
    assert answer["last_sweep_at"] == "2027-01-15T07:30:00Z"
    assert answer["last_sweep"] == {
        "at": "2027-01-15T07:30:00Z",
        "cause": "redis_emptied",
        "objects": 70_000,
        "marked": 3,
    }
    assert answer["lost_and_healed"] == {"count": 2, "since": "2027-01-15T07:00:00Z"}
    assert answer["evidence"] == {"counts": {"redis_emptied": 1}, "since": "2027-01-15T07:00:00Z"}


def test_with_redis_never_heard_nothing_of_it_is_told() -> None:
    answer = readiness(View(VIEW.table, looked_at=NOW), HOUR, NOW)
    unknown = ("consistent_as_of", "last_sweep", "lost_and_healed", "evidence", "events_waiting", "dirty_users")
    assert [answer[name] for name in unknown] == [None] * len(unknown)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(figures=FIGURES, looked_at=NOW, heard_at=NOW), "nothing is published yet"),
        (replace(VIEW, store_error="connection refused"), "cannot be read: connection refused"),
        (replace(VIEW, looked_at=NOW - 20), "last checked 20 s ago"),
        (replace(VIEW, redis_error="connection refused"), "Redis does not answer: connection refused"),
        (replace(VIEW, heard_at=NOW - 20), "Redis has not answered recently"),
        (replace(VIEW, figures=None, heard_at=None), "Redis has not answered recently"),
        (replace(VIEW, figures=replace(FIGURES, oldest_event=NOW - 61)), "has not been published for 61 s"),
        (replace(VIEW, figures=replace(FIGURES, sweep_at=NOW - 7201)), "the last sweep began 7201 s ago"),
        (replace(VIEW, broken_since=NOW - 61), "events or writes may have been lost"),
        (replace(VIEW, figures=replace(FIGURES, waiting=7), stuck_since=NOW - 61), "7 events queued, none processed"),
    ],
)
def test_each_thing_that_is_not_well_is_a_reason_of_its_own(view: View, reason: str) -> None:
    answer = readiness(view, HOUR, NOW)
    assert not answer["ready"]
    (sentence,) = answer["reasons"]
    assert reason in sentence


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, figures=replace(FIGURES, oldest_event=NOW - 59)),
        replace(VIEW, figures=replace(FIGURES, sweep_at=NOW - 7199)),
        replace(VIEW, figures=replace(FIGURES, whole=False), broken_since=NOW - 59),
        replace(VIEW, figures=replace(FIGURES, sweep_at=None)),
        replace(VIEW, figures=replace(FIGURES, waiting=9999), stuck_since=NOW - 59),
        replace(VIEW, figures=replace(FIGURES, dirty=dirty(sweep=10**6, rebuild=10**6))),
    ],
)
def test_what_mends_itself_in_time_is_no_reason(view: View) -> None:
    assert readiness(view, HOUR, NOW)["ready"]


def test_a_minio_that_hides_its_losses_is_a_warning_only() -> None:
    answer = readiness(replace(VIEW, figures=replace(FIGURES, sees_losses=False)), HOUR, NOW)
    assert answer["ready"]
    assert "every 5 minutes" in answer["warnings"][0]


def test_safe_copies_that_do_not_get_on_are_a_warning_only() -> None:
    answer = readiness(replace(VIEW, figures=replace(FIGURES, stuck_copies=12)), HOUR, NOW)
    assert answer["ready"]
    assert answer["warnings"][0].startswith("12 copies of events wait on MinIO's disk")


def test_with_redis_away_its_old_figures_accuse_nobody() -> None:
    view = replace(VIEW, redis_error="gone", figures=replace(FIGURES, oldest_event=NOW - 900, sweep_at=NOW - 90_000))
    assert len(readiness(view, HOUR, NOW)["reasons"]) == 1
