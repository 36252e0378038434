"""Readiness: when the service is ready, and the reasons if it is not."""

import asyncio
import re
import threading
from dataclasses import replace

import falcon.asgi
import pytest
from falcon.testing import ASGIConductor
from prometheus_client.parser import text_string_to_metric_families

from api.answers.metrics import render_metrics
from api.resources.health import (
    ReadyResource,
    describe_lasting_status,
    describe_readiness,
)
from api.snapshot.table import EMPTY_TABLE
from api.snapshot.view import View
from api.web.thread_pool import ThreadPool
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.records import Reject
from shared.progress.pipeline_status import LastSweep, PipelineStatus
from tests.api_parts import make_dirty_counts

NOW = 1_800_000_000.0
HOUR = 3600.0
THREAD_WAIT_S = 30.0
PIPELINE_STATUS = PipelineStatus(
    ignored_keys=(),
    ignored_count=7,
    dead_letters=(),
    dirty_counts=make_dirty_counts(),
    oldest_event_mark_at=None,
    last_publish_at=NOW - 90,
    last_sweep_at=NOW - 1800,
    trust_state="verified",
    detects_losses=True,
    last_sweep=LastSweep(NOW - 1800, "redis_emptied", 70_000, 3),
    loss_signals={"redis_emptied": 1},
    silent_repairs=2,
    counters_since=NOW - 3600,
)
REJECTS = {
    user_id: Reject(f"{user_id}.csv", user_id, "why", None, 0, "e") for user_id in ("1", "2", "3")
}
VIEW = View(
    EMPTY_TABLE.build_next_version(OUTPUT_HEADER + b"2,,,0,\n", "e"),
    REJECTS,
    PIPELINE_STATUS,
    store_polled_at=NOW - 1,
    redis_answered_at=NOW - 1,
)


def test_readiness_is_true_when_all_is_well() -> None:
    answer = describe_readiness(VIEW, HOUR, NOW)
    assert (answer["ready"], answer["reasons"], answer["warnings"]) == (True, [], [])
    assert (answer["rows"], answer["rejected"], answer["held"], answer["ignored"]) == (1, 2, 1, 7)
    assert answer["last_publish_at"] == "2027-01-15T07:58:30Z"
    assert answer["oldest_dirty_age_s"] is None


def test_readiness_reports_consistency_time_and_silent_repairs() -> None:
    answer = describe_readiness(replace(VIEW, consistent_as_of=NOW - 30), HOUR, NOW)
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


def test_readiness_without_redis_reports_unknown_values() -> None:
    answer = describe_readiness(View(VIEW.table, store_polled_at=NOW), HOUR, NOW)
    unknown = (
        "consistent_as_of",
        "last_sweep",
        "lost_and_healed",
        "evidence",
        "events_waiting",
        "dirty_users",
    )
    assert [answer[name] for name in unknown] == [None] * len(unknown)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (
            View(pipeline_status=PIPELINE_STATUS, store_polled_at=NOW, redis_answered_at=NOW),
            "nothing is published yet",
        ),
        (replace(VIEW, store_error="connection refused"), "cannot be read: connection refused"),
        (replace(VIEW, store_polled_at=NOW - 20), "last checked 20 s ago"),
        (
            replace(VIEW, redis_error="connection refused"),
            "Redis does not answer: connection refused",
        ),
        (replace(VIEW, redis_answered_at=NOW - 20), "Redis has not answered recently"),
        (
            replace(VIEW, pipeline_status=None, redis_answered_at=None),
            "Redis has not answered recently",
        ),
        (
            replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, oldest_event_mark_at=NOW - 61)),
            "has not been published for 61 s",
        ),
        (
            replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, last_sweep_at=NOW - 7201)),
            "the last sweep began 7201 s ago",
        ),
        (replace(VIEW, suspect_since=NOW - 61), "events or writes may have been lost"),
        (
            replace(
                VIEW,
                pipeline_status=replace(PIPELINE_STATUS, waiting_events=7),
                events_stalled_since=NOW - 61,
            ),
            "7 events queued, none processed",
        ),
        (
            replace(
                VIEW,
                pipeline_status=replace(PIPELINE_STATUS, waiting_events=1),
                events_stalled_since=NOW - 61,
            ),
            "1 event queued, none processed",
        ),
    ],
)
def test_readiness_names_each_problem(view: View, reason: str) -> None:
    answer = describe_readiness(view, HOUR, NOW)
    assert not answer["ready"]
    (sentence,) = answer["reasons"]
    assert reason in sentence


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, oldest_event_mark_at=NOW - 59)),
        replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, last_sweep_at=NOW - 7199)),
        replace(
            VIEW,
            pipeline_status=replace(PIPELINE_STATUS, trust_state="verifying"),
            suspect_since=NOW - 59,
        ),
        replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, last_sweep_at=None)),
        replace(
            VIEW,
            pipeline_status=replace(PIPELINE_STATUS, waiting_events=9999),
            events_stalled_since=NOW - 59,
        ),
        replace(
            VIEW,
            pipeline_status=replace(
                PIPELINE_STATUS, dirty_counts=make_dirty_counts(sweep=10**6, rebuild=10**6)
            ),
        ),
    ],
)
def test_readiness_ignores_problems_that_resolve_in_time(view: View) -> None:
    assert describe_readiness(view, HOUR, NOW)["ready"]


def test_readiness_warns_when_minio_hides_losses() -> None:
    answer = describe_readiness(
        replace(VIEW, pipeline_status=replace(PIPELINE_STATUS, detects_losses=False)), HOUR, NOW
    )
    assert answer["ready"]
    assert "every 5 minutes" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("count", "warnings"),
    [
        (None, []),
        (0, []),
        (
            1234,
            [
                "1,234 published values are valid and probably wrong, such as birth dates in "
                "seconds: see the kind suspicious in GET /errors"
            ],
        ),
        (
            1,
            [
                "1 published value is valid and probably wrong, such as birth dates in "
                "seconds: see the kind suspicious in GET /errors"
            ],
        ),
    ],
)
def test_readiness_counts_suspicious_rows_and_warns(count: int | None, warnings: list[str]) -> None:
    answer = describe_readiness(VIEW, HOUR, NOW, count)
    assert (answer["ready"], answer["suspicious"], answer["warnings"]) == (True, count, warnings)


def test_readiness_does_not_wait_for_other_computations() -> None:
    """While all threads compute, the number of suspicious rows is unknown, and then known."""
    table = EMPTY_TABLE.build_next_version(OUTPUT_HEADER + b"1,A,B,946684800,\n", "e")
    released = threading.Event()

    async def run() -> None:
        pool = ThreadPool("computation", 1, THREAD_WAIT_S)
        app = falcon.asgi.App()
        resource = ReadyResource(lambda: replace(VIEW, table=table), HOUR, lambda: NOW, pool)
        app.add_route("/health/ready", resource)
        async with ASGIConductor(app) as client:
            computation = asyncio.create_task(pool.run(released.wait))
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(THREAD_WAIT_S / 2):
                    early = await client.simulate_get("/health/ready")
            finally:
                released.set()
            await computation
            async with asyncio.timeout(THREAD_WAIT_S):
                late = early
                while late.json["suspicious"] is None:
                    late = await client.simulate_get("/health/ready")
        assert (early.status_code, early.json["suspicious"]) == (200, None)
        assert (late.status_code, late.json["suspicious"]) == (200, 1)

    asyncio.run(run())


def test_readiness_ignores_old_status_while_redis_is_down() -> None:
    view = replace(
        VIEW,
        redis_error="gone",
        pipeline_status=replace(
            PIPELINE_STATUS, oldest_event_mark_at=NOW - 900, last_sweep_at=NOW - 90_000
        ),
    )
    assert len(describe_readiness(view, HOUR, NOW)["reasons"]) == 1


def test_lasting_status_changes_by_facts_and_not_by_ages() -> None:
    """A stream sends an event for each change of it, so nothing in it may grow with the time."""
    status = replace(PIPELINE_STATUS, oldest_event_mark_at=NOW - 70)
    view = replace(VIEW, pipeline_status=status, consistent_as_of=NOW - 30)
    before = describe_lasting_status(view, HOUR, NOW)
    later = replace(view, consistent_as_of=NOW - 20)
    assert describe_lasting_status(later, HOUR, NOW + 10) == before
    assert before["reasons"] == ["the oldest change has not been published for  s"]
    more_rejects = replace(view, rejects={**REJECTS, "4": REJECTS["3"]})
    assert describe_lasting_status(more_rejects, HOUR, NOW) != before
    assert describe_lasting_status(replace(view, redis_error="gone"), HOUR, NOW) != before


def test_readiness_warns_of_silent_changes() -> None:
    silent = replace(PIPELINE_STATUS, silent_countdown=2)
    answer = describe_readiness(replace(VIEW, pipeline_status=silent), HOUR, NOW)
    assert answer["ready"]
    (warning,) = answer["warnings"]
    assert "every 5 minutes" in warning
    assert "POST /events" in warning
    # Where no event arrives at all, that is what has to be corrected.
    without_events = replace(silent, events_available=False)
    answer = describe_readiness(replace(VIEW, pipeline_status=without_events), HOUR, NOW)
    assert len(answer["warnings"]) == 1
    assert "rowdrop init" in answer["warnings"][0]


def read_samples(view: View) -> dict[str, float]:
    body = render_metrics(view, describe_readiness(view, HOUR, NOW, 4))
    samples = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation
        for sample in family.samples:
            samples[" ".join((sample.name, *sample.labels.values()))] = sample.value
    # A parser in Prometheus refuses a metric that is described twice.
    names = re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE)
    assert len(names) == len(set(names))
    return samples


def test_metrics_have_the_figures_of_readiness() -> None:
    status = replace(
        PIPELINE_STATUS,
        dirty_counts=make_dirty_counts(sweep=5),
        oldest_event_mark_at=NOW - 61,
        waiting_events=8,
    )
    view = replace(VIEW, pipeline_status=status, consistent_as_of=NOW - 30)
    assert read_samples(view) == {
        "rowdrop_ready": 0,
        "rowdrop_rows": 1,
        "rowdrop_rejected": 2,
        "rowdrop_held": 1,
        "rowdrop_suspicious": 4,
        "rowdrop_ignored": 7,
        "rowdrop_dead_letters": 0,
        "rowdrop_events_waiting": 8,
        "rowdrop_lag_seconds": 61,
        "rowdrop_snapshot_age_seconds": 1,
        "rowdrop_redis_age_seconds": 1,
        "rowdrop_consistent_timestamp_seconds": NOW - 30,
        "rowdrop_last_publish_timestamp_seconds": NOW - 90,
        "rowdrop_last_sweep_timestamp_seconds": NOW - 1800,
        **{f"rowdrop_dirty_users {cause}": 0 for cause in status.dirty_counts},
        "rowdrop_dirty_users sweep": 5,
        "rowdrop_lost_and_healed_total": 2,
        "rowdrop_loss_signals_total redis_emptied": 1,
    }
    assert read_samples(VIEW)["rowdrop_lag_seconds"] == 0


def test_metrics_have_no_sample_of_what_is_not_known() -> None:
    assert read_samples(View()) == {
        "rowdrop_ready": 0,
        "rowdrop_rejected": 0,
        "rowdrop_held": 0,
        "rowdrop_suspicious": 4,
    }
