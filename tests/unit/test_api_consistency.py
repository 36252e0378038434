"""The value of `consistent_as_of`."""

from dataclasses import replace

import pytest

from api.snapshot.consistency import MARGIN_S, ConsistencyTracker
from shared.progress.pipeline_status import PipelineStatus
from tests.api_parts import make_dirty_counts

NOW = 1_800_000_000.0
PIPELINE_STATUS = PipelineStatus(
    ignored_keys=(),
    ignored_count=0,
    dead_letters=(),
    dirty_counts=make_dirty_counts(),
    oldest_event_mark_at=None,
    last_publish_at=NOW - 90,
    last_sweep_at=NOW - 1800,
    trust_state="verified",
    detects_losses=True,
    published_etag="e",
)


def as_of(status: PipelineStatus, served_etag: str | None = "e") -> float | None:
    consistency = ConsistencyTracker()
    consistency.update(status, served_etag, NOW)
    return consistency.as_of


def test_consistency_tracker_idle_pipeline_is_now_minus_margin() -> None:
    assert as_of(PIPELINE_STATUS) == NOW - MARGIN_S


@pytest.mark.parametrize(
    "status",
    [
        replace(
            PIPELINE_STATUS, dirty_counts=make_dirty_counts(rebuild=5)
        ),  # a rebuild is no sign of drift
        replace(PIPELINE_STATUS, trust_state="verifying"),  # the hourly sweep
    ],
)
def test_consistency_tracker_ignores_routine_bulk_work(status: PipelineStatus) -> None:
    assert as_of(status) == NOW - MARGIN_S


@pytest.mark.parametrize("cause", ["bundle", "unpack"])
def test_consistency_tracker_stays_while_bundle_is_pending(cause: str) -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    before = consistency.as_of
    consistency.update(
        replace(PIPELINE_STATUS, dirty_counts=make_dirty_counts(**{cause: 1})), "e", NOW + 500
    )
    assert consistency.as_of == before
    consistency.update(PIPELINE_STATUS, "e", NOW + 600)
    assert consistency.as_of == NOW + 600 - MARGIN_S


def test_consistency_tracker_precedes_oldest_dirty_user() -> None:
    status = replace(
        PIPELINE_STATUS, dirty_counts=make_dirty_counts(event=1), oldest_event_mark_at=NOW - 40
    )
    assert as_of(status) == NOW - 40 - MARGIN_S


def test_consistency_tracker_stays_while_events_wait() -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    for seconds in (10, 20, 30):
        consistency.update(replace(PIPELINE_STATUS, waiting_events=3), "e", NOW + seconds)
    assert consistency.as_of == NOW - MARGIN_S
    consistency.update(PIPELINE_STATUS, "e", NOW + 40)
    assert consistency.as_of == NOW + 40 - MARGIN_S


@pytest.mark.parametrize(
    "status",
    [
        replace(PIPELINE_STATUS, no_known_loss=False),
        replace(PIPELINE_STATUS, dirty_counts=make_dirty_counts(sweep=1)),
        replace(PIPELINE_STATUS, waiting_events=1),  # and no poll has found the inbox empty
        replace(PIPELINE_STATUS, published_etag="another"),
        replace(PIPELINE_STATUS, detects_losses=False, last_sweep_at=None),
    ],
)
def test_consistency_tracker_is_none_when_unknown(status: PipelineStatus) -> None:
    assert as_of(status) is None


def test_consistency_tracker_is_withdrawn_after_loss() -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    consistency.update(replace(PIPELINE_STATUS, no_known_loss=False), "e", NOW + 1)
    assert consistency.as_of is None


def test_consistency_tracker_stays_for_stale_table() -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    consistency.update(replace(PIPELINE_STATUS, published_etag="f"), "e", NOW + 10)
    assert consistency.as_of == NOW - MARGIN_S
    consistency.update(replace(PIPELINE_STATUS, published_etag="f"), "f", NOW + 11)
    assert consistency.as_of == NOW + 11 - MARGIN_S


@pytest.mark.parametrize("changes", [{"detects_losses": False}, {"events_available": False}])
def test_consistency_tracker_uses_last_sweep_without_loss_detection(
    changes: dict[str, bool],
) -> None:
    assert as_of(replace(PIPELINE_STATUS, **changes)) == NOW - 1800  # type: ignore[arg-type]


def test_consistency_tracker_waits_after_redis_outage() -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    consistency.record_redis_outage()
    for seconds in (60, 60 + MARGIN_S - 1):
        consistency.update(PIPELINE_STATUS, "e", NOW + seconds)
        assert consistency.as_of == NOW - MARGIN_S
    consistency.update(PIPELINE_STATUS, "e", NOW + 60 + MARGIN_S)
    assert consistency.as_of == NOW + 60


def test_consistency_tracker_withdraws_to_last_sweep_after_silent_changes() -> None:
    """Events have proved a later moment, and then a sweep found changes without an event."""
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    silent = replace(PIPELINE_STATUS, silent_countdown=3, last_sweep_at=NOW - 60)
    consistency.update(silent, "e", NOW + 10)
    assert consistency.as_of == NOW - 60
    consistency.update(silent, "e", NOW + 200)
    assert consistency.as_of == NOW - 60
    later = replace(silent, silent_countdown=1, last_sweep_at=NOW + 240)
    consistency.update(replace(later, last_sweep_at=NOW - 60), "e", NOW + 230)
    consistency.update(later, "e", NOW + 250)
    assert consistency.as_of == NOW + 240
    consistency.update(replace(later, silent_countdown=0), "e", NOW + 600)
    assert consistency.as_of == NOW + 600 - MARGIN_S


def test_consistency_tracker_withdraws_while_silent_changes_are_unpublished() -> None:
    consistency = ConsistencyTracker()
    consistency.update(PIPELINE_STATUS, "e", NOW)
    silent = replace(PIPELINE_STATUS, silent_countdown=3)
    consistency.update(replace(silent, dirty_counts=make_dirty_counts(unpack=1)), "e", NOW + 10)
    assert consistency.as_of is None
    consistency.update(silent, "e", NOW + 20)
    assert consistency.as_of == NOW - 1800
