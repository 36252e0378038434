"""Scenario: objects become unreadable, a user's file and the published files."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.records import UNREADABLE_REASON
from shared.object_store import ObjectUnreadable
from tests.faults.live.rowdrop import LiveRowdrop, WaitTimeout, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun
from tests.unreadable import replace_by_unreadable, write_unreadable_object

READY_LIMIT_S = 120.0
REJECT_LIMIT_S = 60.0
MANIFEST_WAIT_S = 15.0
PUBLISHED_KEYS = (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY)


def run_objects_unreadable(run: ScenarioRun) -> None:
    """Make a user's CSV unreadable, then all published objects together.

    The long form then makes each published object unreadable alone.
    """
    unreadable_file = write_unreadable_object(run.folder / "tls")
    rounds: list[Sequence[str]] = [PUBLISHED_KEYS]
    if run.long:
        rounds += [(key,) for key in PUBLISHED_KEYS]
    with (
        run.start_rowdrop() as live,
        run.start_traffic(live, users=100, per_second=20) as (traffic, _),
    ):
        replace_by_unreadable(live.minio_server, unreadable_file, live.source.bucket, "sealed.csv")
        live.request_sweep()
        _check_reject_only(run, live)
        time.sleep(MANIFEST_WAIT_S)  # until the manifest is written
        for keys in rounds:
            for key in keys:
                _make_unreadable(live, unreadable_file, key)
            _check_becomes_ready(run, live, keys)
        run.wait_until_correct(live, traffic, READY_LIMIT_S)
        run.finding.check(
            "/errors: expected sealed.csv as a reject at the end, found no such entry",
            holds=_is_rejected(live),
        )


def _is_rejected(live: LiveRowdrop) -> bool:
    status, body = live.get_from_api("/errors?limit=1000")
    listed = json.loads(body) if status == 200 else []
    return any(
        error["key"] == "sealed.csv" and error["reason"].startswith(UNREADABLE_REASON)
        for error in listed
    )


def _is_ready(live: LiveRowdrop) -> bool:
    return live.get_from_api("/health/ready")[0] == 200


def _check_reject_only(run: ScenarioRun, live: LiveRowdrop) -> None:
    elapsed_s = wait_until(lambda: _is_rejected(live), REJECT_LIMIT_S, "sealed.csv is a reject")
    run.finding.figures["an unreadable CSV is a reject"] = f"{elapsed_s:.1f} s"
    for _ in range(10):
        status, body = live.get_from_api("/health/ready")
        run.finding.check(
            f"/health/ready: expected 200 in spite of one unreadable CSV, found {body!r}",
            holds=status == 200,
        )
        time.sleep(0.5)


def _make_unreadable(live: LiveRowdrop, unreadable_file: Path, key: str) -> None:
    """Make an object unreadable, again if a concurrent write replaced it."""
    for _ in range(20):
        replace_by_unreadable(live.minio_server, unreadable_file, live.output.bucket, key)
        time.sleep(0.5)
        try:
            live.output.check_readable(key)
        except ObjectUnreadable:
            return
    raise WaitTimeout(
        f"{key}: expected it to stay unreadable, found that it was rewritten after 20 attempts"
    )


def _is_readable(live: LiveRowdrop, key: str) -> bool:
    try:
        live.output.check_readable(key)
    except ObjectUnreadable:
        return False
    return True


def _check_becomes_ready(run: ScenarioRun, live: LiveRowdrop, keys: Sequence[str]) -> None:
    started_at = time.monotonic()
    description = f"{', '.join(keys)} can be read again"
    wait_until(lambda: all(_is_readable(live, key) for key in keys), READY_LIMIT_S, description)
    wait_until(lambda: _is_ready(live), READY_LIMIT_S, f"ready again after {', '.join(keys)}")
    elapsed_s = time.monotonic() - started_at
    run.finding.check(
        f"expected readiness within the limit, found {elapsed_s:.0f} s",
        holds=elapsed_s < READY_LIMIT_S,
    )
    run.finding.figures[f"ready again after {', '.join(keys)}"] = f"{elapsed_s:.1f} s"


SCENARIOS = {
    "objects that cannot be read": Scenario(
        run_objects_unreadable,
        ("rewriting",),
        in_short_form=True,
    ),
}
