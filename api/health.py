"""Liveness and readiness: /health/live and /health/ready.

A process is live if it has a snapshot, so that GETs can be answered.  Rowdrop is ready if the
pipeline keeps up and no loss of events or writes is known.
"""

from collections.abc import Callable
from typing import Any

import falcon
from falcon import Request, Response

from api.figures import Figures
from api.filters import single_values
from api.times import iso
from api.view import CurrentView, View, held

STALE_S = 15.0
"""Seconds without a check of output.csv, or without a response of Redis, until it is an outage."""
SLOW_S = 60.0
"""Seconds that events or changes may wait."""
BROKEN_S = 60.0
"""Seconds that a possible loss may wait for the sweep that verifies it."""
BLIND = (
    "lost events cannot be detected, because MinIO's metrics are not accessible: "
    "a sweep every 5 minutes finds changes instead; give Rowdrop access to the metrics"
)

SILENT = (
    "MinIO's events do not reach Redis: a sweep every 5 minutes finds changes instead; "
    "python -m worker.init prints what to set"
)
STUCK = (
    "{} copies of events wait on MinIO's disk, and their queue is stalled: a sweep every "
    "5 minutes finds changes instead; restart MinIO, and check its queue folder for a broken file"
)


class LiveResource:
    """GET /health/live."""

    def __init__(self, current: CurrentView) -> None:
        self._current = current

    def on_get(self, request: Request, response: Response) -> None:
        """Respond with 200 once a snapshot is loaded, even in a later outage; with 503 before."""
        single_values(request.params, ())
        live = self._current().table is not None
        response.media = {"live": live}
        response.status = falcon.HTTP_200 if live else falcon.HTTP_503
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


class ReadyResource:
    """GET /health/ready.

    `clock` returns Unix seconds.
    """

    def __init__(self, current: CurrentView, sweep_interval_s: float, clock: Callable[[], float]) -> None:
        self._current, self._sweep_interval_s, self._clock = current, sweep_interval_s, clock

    def on_get(self, request: Request, response: Response) -> None:
        """Respond with 200 if Rowdrop is ready, else with 503 and one sentence per reason."""
        single_values(request.params, ())
        answer = readiness(self._current(), self._sweep_interval_s, self._clock())
        response.media = answer
        response.status = falcon.HTTP_200 if answer["ready"] else falcon.HTTP_503
        response.set_header("Cache-Control", "no-store")

    on_head = on_get


def readiness(view: View, sweep_interval_s: float, now: float) -> dict[str, Any]:
    """Return the body of /health/ready.

    Ages are in seconds, times in ISO 8601 and UTC.  Unknown values become None.
    """
    figures, held_rows = view.figures, len(held(view))
    # During an outage of Redis the figures are stale: delays computed from them would be wrong.
    reasons = [*_outages(view, now), *(_delays(view, sweep_interval_s, now) if view.redis_error is None else [])]
    return {
        "ready": not reasons,
        "reasons": reasons,
        "warnings": _warnings(figures),
        "snapshot_age_s": _age(view.looked_at, now),
        "redis_age_s": _age(view.heard_at, now),
        "dirty_users": dict(figures.dirty) if figures else None,
        "oldest_dirty_age_s": _age(figures.oldest_event, now) if figures else None,
        "consistent_as_of": iso(view.consistent_as_of),
        "last_publish_at": iso(figures.published_at) if figures else None,
        "last_sweep_at": iso(figures.sweep_at) if figures else None,
        "last_sweep": _last_sweep(figures),
        "events_waiting": figures.waiting if figures else None,
        "rows": None if view.table is None else len(view.table),
        "rejected": len(view.rejects) - held_rows,
        "held": held_rows,
        "ignored": figures.ignored_total if figures else None,
        "dead_letters": len(figures.dead_letters) if figures else None,
        "lost_and_healed": {"count": figures.healed, "since": iso(figures.counting_since)} if figures else None,
        "evidence": {"counts": dict(figures.evidence), "since": iso(figures.counting_since)} if figures else None,
    }


def _last_sweep(figures: Figures | None) -> dict[str, Any] | None:
    sweep = figures.sweep if figures else None
    return sweep and {"at": iso(sweep.at), "cause": sweep.cause, "objects": sweep.objects, "marked": sweep.marked}


def _warnings(figures: Figures | None) -> list[str]:
    if figures is None:
        return []
    stuck = figures.stuck_copies
    return [
        *([] if figures.sees_losses else [BLIND]),
        *([] if figures.notified else [SILENT]),
        *([STUCK.format(stuck)] if stuck else []),
    ]


def _outages(view: View, now: float) -> list[str]:
    reasons = []
    if view.table is None:
        reasons.append("nothing is published yet: no output.csv has been read so far")
    if view.store_error:
        reasons.append(f"output.csv or rejects.csv cannot be read: {view.store_error}")
    elif view.looked_at is not None and now - view.looked_at > STALE_S:
        reasons.append(f"output.csv was last checked {now - view.looked_at:.0f} s ago: MinIO hangs")
    if view.redis_error:
        reasons.append(f"Redis does not answer: {view.redis_error}")
    elif view.heard_at is None or now - view.heard_at > STALE_S:
        reasons.append("Redis has not answered recently")
    return reasons


def _delays(view: View, sweep_interval_s: float, now: float) -> list[str]:
    figures, reasons = view.figures, []
    if figures is None:
        return []
    if figures.source_failure:
        reasons.append(f"the source bucket cannot be read; no row is removed for now: {figures.source_failure}")
    if view.stuck_since is not None and now - view.stuck_since > SLOW_S:
        waits = f"{figures.waiting} events queued, none processed for {now - view.stuck_since:.0f} s"
        reasons.append(f"listener stalled: {waits}")
    if figures.oldest_event is not None and now - figures.oldest_event > SLOW_S:
        reasons.append(f"the oldest change has not been published for {now - figures.oldest_event:.0f} s")
    if figures.sweep_at is not None and now - figures.sweep_at > 2 * sweep_interval_s:
        reasons.append(f"the last sweep began {now - figures.sweep_at:.0f} s ago, more than two intervals")
    if view.broken_since is not None and now - view.broken_since > BROKEN_S:
        reasons.append("events or writes may have been lost, and no sweep has verified the rows for a minute")
    return reasons


def _age(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), 3)
