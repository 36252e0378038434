"""Liveness, readiness and metrics: /health/live, /health/ready and /metrics.

A process is live if it has a snapshot, so that GETs can be answered.  Rowdrop is ready if the
pipeline keeps up and no loss of events or writes is known.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import falcon
from falcon.asgi import Request, Response

from api.answers.metrics import METRICS_TYPE, render_metrics
from api.query.parameters import parse_single_values
from api.snapshot.view import View, ViewProvider
from api.web.problems import Problem
from api.web.thread_pool import ThreadPool
from shared.progress.pipeline_status import PipelineStatus
from shared.text import format_count, format_time

MAX_SNAPSHOT_AGE_S = 15.0
"""Seconds without a check of output.csv, or without a response of Redis, until it is an outage."""
MAX_PUBLISH_DELAY_S = 60.0
"""Seconds that events or changes may wait."""
MAX_SUSPECT_S = 60.0
"""Seconds that a possible loss may wait for the sweep that verifies it."""
SUSPICIOUS_COUNT_TIMEOUT_S = 0.5
"""Seconds that a request may wait for the number of suspicious rows."""
NO_METRICS_WARNING = (
    "lost events cannot be detected, because MinIO's metrics are not accessible: "
    "a sweep every 5 minutes finds changes instead; give Rowdrop access to the metrics"
)
NO_EVENTS_WARNING = (
    "no rule is known that sends the events of the source bucket: a sweep every 5 minutes finds "
    "changes without events; rowdrop init prints what to set"
)
SUSPICIOUS_WARNING = (
    "{} valid and probably wrong, such as birth dates in seconds: "
    "see the kind suspicious in GET /errors"
)
SILENT_CHANGES_WARNING = (
    "files were changed without an event, for example by replication or a forced deletion: a sweep "
    "every 5 minutes finds such changes, until 3 in a row have found none; let a webhook announce "
    "them (POST /events), or wait"
)
_NUMBER = re.compile(r"\d+")


class LiveResource:
    """GET /health/live."""

    def __init__(self, get_view: ViewProvider) -> None:
        self._get_view = get_view

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with 200 once a snapshot is loaded, even in a later outage; with 503 before."""
        parse_single_values(request.params, ())
        live = self._get_view().table is not None
        response.media = {"live": live}
        response.status = falcon.HTTP_200 if live else falcon.HTTP_503
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


class ReadyResource:
    """GET /health/ready, and GET /metrics with the suffix `metrics`.

    `clock` returns Unix seconds. `compute_pool` counts the suspicious rows of each new table.
    """

    def __init__(
        self,
        get_view: ViewProvider,
        sweep_interval_s: float,
        clock: Callable[[], float],
        compute_pool: ThreadPool,
    ) -> None:
        self._get_view = get_view
        self._sweep_interval_s = sweep_interval_s
        self._clock = clock
        self._compute_pool = compute_pool

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with 200 if Rowdrop is ready, else with 503 and one sentence per reason."""
        parse_single_values(request.params, ())
        body = await self._describe(self._get_view())
        response.media = body
        response.status = falcon.HTTP_200 if body["ready"] else falcon.HTTP_503
        response.set_header("Cache-Control", "no-store")

    async def on_get_metrics(self, request: Request, response: Response) -> None:
        """Respond with the same figures as metrics for Prometheus, always with 200."""
        parse_single_values(request.params, ())
        view = self._get_view()
        readiness = await self._describe(view)
        response.data = render_metrics(view, readiness)
        response.content_type = METRICS_TYPE
        response.set_header("Cache-Control", "no-store")

    on_head = on_get
    on_head_metrics = on_get_metrics

    async def _describe(self, view: View) -> dict[str, Any]:
        suspicious_count = await self._count_suspicious_rows(view)
        return describe_readiness(view, self._sweep_interval_s, self._clock(), suspicious_count)

    async def _count_suspicious_rows(self, view: View) -> int | None:
        """Return the number of suspicious rows, None if it is not known soon."""
        table = view.table
        if table is None:
            return None
        if table.has_found_suspicious_rows:
            return table.suspicious_rows.entry_count
        # Readiness must not wait for requests that compute much: a later request has the number.
        with suppress(TimeoutError, Problem):
            async with asyncio.timeout(SUSPICIOUS_COUNT_TIMEOUT_S):
                rows = await self._compute_pool.run(lambda: table.suspicious_rows)
                return rows.entry_count
        return None


def describe_readiness(
    view: View, sweep_interval_s: float, now: float, suspicious_count: int | None = None
) -> dict[str, Any]:
    """Return the body of /health/ready.

    `now` is in Unix seconds.  Ages are in seconds, times in ISO 8601 and UTC.  Unknown values
    become None.
    """
    held_count = len(view.reject_list.held_user_ids)
    reasons = _list_outages(view, now)
    # During an outage of Redis the figures are stale: delays computed from them would be wrong.
    if view.redis_error is None:
        reasons += _list_delays(view, sweep_interval_s, now)
    pipeline = _describe_pipeline(view.pipeline_status, now)
    return {
        "ready": not reasons,
        "reasons": reasons,
        "warnings": _list_warnings(view.pipeline_status, suspicious_count),
        "snapshot_age_s": _compute_age(view.store_polled_at, now),
        "redis_age_s": _compute_age(view.redis_answered_at, now),
        "dirty_users": pipeline.get("dirty_users"),
        "oldest_dirty_age_s": pipeline.get("oldest_dirty_age_s"),
        "consistent_as_of": format_time(view.consistent_as_of),
        "last_publish_at": pipeline.get("last_publish_at"),
        "last_sweep_at": pipeline.get("last_sweep_at"),
        "last_sweep": pipeline.get("last_sweep"),
        "events_waiting": pipeline.get("events_waiting"),
        "rows": None if view.table is None else view.table.row_count,
        "rejected": len(view.rejects) - held_count,
        "held": held_count,
        "suspicious": suspicious_count,
        "ignored": pipeline.get("ignored"),
        "dead_letters": pipeline.get("dead_letters"),
        "lost_and_healed": pipeline.get("lost_and_healed"),
        "evidence": pipeline.get("evidence"),
    }


def describe_lasting_status(view: View, sweep_interval_s: float, now: float) -> dict[str, Any]:
    """Return the fields of /health/ready that do not change with each request: no ages.

    Reasons contain ages, so they have no numbers here.
    """
    body = describe_readiness(view, sweep_interval_s, now)
    changing = ("snapshot_age_s", "redis_age_s", "oldest_dirty_age_s", "consistent_as_of")
    lasting = {name: value for name, value in body.items() if name not in changing}
    return lasting | {"reasons": [_NUMBER.sub("", reason) for reason in body["reasons"]]}


def _describe_pipeline(status: PipelineStatus | None, now: float) -> dict[str, Any]:
    """Return the fields that depend on the pipeline's status; none if it has not been read."""
    if status is None:
        return {}
    since = format_time(status.counters_since)
    return {
        "dirty_users": dict(status.dirty_counts),
        "oldest_dirty_age_s": _compute_age(status.oldest_event_mark_at, now),
        "last_publish_at": format_time(status.last_publish_at),
        "last_sweep_at": format_time(status.last_sweep_at),
        "last_sweep": status.last_sweep.to_json() if status.last_sweep else None,
        "events_waiting": status.waiting_events,
        "ignored": status.ignored_count,
        "dead_letters": len(status.dead_letters),
        # Clients rely on these two keys: they hold the silent repairs and the loss signals.
        "lost_and_healed": {"count": status.silent_repairs, "since": since},
        "evidence": {"counts": dict(status.loss_signals), "since": since},
    }


def _list_warnings(
    pipeline_status: PipelineStatus | None, suspicious_count: int | None
) -> list[str]:
    """Return what an operator should know although Rowdrop is ready.

    That is what delays results but does not make them wrong, and rows that are probably wrong in
    their files.
    """
    warnings = []
    if pipeline_status and not pipeline_status.detects_losses:
        warnings.append(NO_METRICS_WARNING)
    if pipeline_status and not pipeline_status.events_available:
        warnings.append(NO_EVENTS_WARNING)
    elif pipeline_status and pipeline_status.silent_countdown:
        warnings.append(SILENT_CHANGES_WARNING)
    if suspicious_count:
        values = ("published value is", "published values are")
        warnings.append(SUSPICIOUS_WARNING.format(format_count(suspicious_count, *values)))
    return warnings


def _list_outages(view: View, now: float) -> list[str]:
    reasons = []
    if view.table is None:
        reasons.append("nothing is published yet: no output.csv has been read so far")
    if view.store_error:
        reasons.append(f"output.csv or rejects.csv cannot be read: {view.store_error}")
    # A request that hangs has raised no error yet: only the age of the last check shows it.
    elif _compute_elapsed_s(view.store_polled_at, now) > MAX_SNAPSHOT_AGE_S:
        snapshot_age_s = _compute_elapsed_s(view.store_polled_at, now)
        reasons.append(f"output.csv was last checked {snapshot_age_s:.0f} s ago: MinIO hangs")
    if view.redis_error:
        reasons.append(f"Redis does not answer: {view.redis_error}")
    elif view.redis_answered_at is None or now - view.redis_answered_at > MAX_SNAPSHOT_AGE_S:
        reasons.append("Redis has not answered recently")
    return reasons


def _list_delays(view: View, sweep_interval_s: float, now: float) -> list[str]:
    pipeline_status = view.pipeline_status
    if pipeline_status is None:
        return []
    reasons = []
    if pipeline_status.source_failure:
        reasons.append(
            "the source bucket cannot be read; no row is removed for now: "
            f"{pipeline_status.source_failure}"
        )
    stalled_s = _compute_elapsed_s(view.events_stalled_since, now)
    if stalled_s > MAX_PUBLISH_DELAY_S:
        events = format_count(pipeline_status.waiting_events, "event")
        reasons.append(f"listener stalled: {events} queued, none processed for {stalled_s:.0f} s")
    delay_s = _compute_elapsed_s(pipeline_status.oldest_event_mark_at, now)
    if delay_s > MAX_PUBLISH_DELAY_S:
        reasons.append(f"the oldest change has not been published for {delay_s:.0f} s")
    sweep_age_s = _compute_elapsed_s(pipeline_status.last_sweep_at, now)
    if sweep_age_s > 2 * sweep_interval_s:
        reasons.append(f"the last sweep began {sweep_age_s:.0f} s ago, more than two intervals")
    if _compute_elapsed_s(view.suspect_since, now) > MAX_SUSPECT_S:
        reasons.append(
            "events or writes may have been lost, and no sweep has verified the rows for a minute"
        )
    return reasons


def _compute_elapsed_s(moment: float | None, now: float) -> float:
    """Return the seconds since a moment; 0 if it has not happened, so that no limit is exceeded."""
    return 0.0 if moment is None else now - moment


def _compute_age(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), 3)
