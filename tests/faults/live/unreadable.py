"""Scenario: objects become unreadable, a user's file and the published files."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from shared.object_store import ObjectUnreadable
from shared.published import BUNDLES, MANIFEST, OUTPUT, REJECTS
from shared.records import UNREADABLE
from tests.faults.live.rowdrop import Live, NotInTime, until
from tests.faults.live.scenario import Scenario, Stage
from tests.unreadable import make_unreadable, write_sealed_object

READY_S, REJECT_S, MEMO_S = 120.0, 60.0, 15.0
FILES = (OUTPUT, REJECTS, MANIFEST, BUNDLES)


def objects_unreadable(stage: Stage) -> None:
    """Make a user's CSV unreadable, then all published objects together.

    The long form then makes each published object unreadable alone.
    """
    sealed = write_sealed_object(stage.folder / "tls")
    rounds: list[Sequence[str]] = [FILES]
    if stage.long:
        rounds += [(key,) for key in FILES]
    with stage.rowdrop() as live, stage.traffic(live, users=100, per_second=20) as (traffic, _):
        make_unreadable(live.minio_server, sealed, live.source.bucket, "sealed.csv")
        live.sweep()
        _is_a_reject_and_no_more(stage, live)
        time.sleep(MEMO_S)  # until the manifest is written
        for keys in rounds:
            for key in keys:
                _seal(live, sealed, key)
            _becomes_ready(stage, live, keys)
        stage.converge(live, traffic, READY_S)
        stage.finding.expect(
            "/errors: expected sealed.csv as a reject at the end, found no such entry", holds=_is_rejected(live)
        )


def _is_rejected(live: Live) -> bool:
    status, body = live.get("/errors?limit=1000")
    listed = json.loads(body) if status == 200 else []
    return any(found["key"] == "sealed.csv" and found["reason"].startswith(UNREADABLE) for found in listed)


def _is_ready(live: Live) -> bool:
    return live.get("/health/ready")[0] == 200


def _is_a_reject_and_no_more(stage: Stage, live: Live) -> None:
    took = until(lambda: _is_rejected(live), REJECT_S, "sealed.csv is a reject")
    stage.finding.figures["an unreadable CSV is a reject"] = f"{took:.1f} s"
    for _ in range(10):
        status, body = live.get("/health/ready")
        stage.finding.expect(
            f"/health/ready: expected 200 in spite of one unreadable CSV, found {body!r}", holds=status == 200
        )
        time.sleep(0.5)


def _seal(live: Live, sealed: Path, key: str) -> None:
    """Make an object unreadable, again if a concurrent write replaced it."""
    for _ in range(20):
        make_unreadable(live.minio_server, sealed, live.output.bucket, key)
        time.sleep(0.5)
        try:
            live.output.check_readable(key)
        except ObjectUnreadable:
            return
    raise NotInTime(f"{key}: expected it to stay unreadable, found that it was rewritten after 20 attempts")


def _is_readable(live: Live, key: str) -> bool:
    try:
        live.output.check_readable(key)
    except ObjectUnreadable:
        return False
    return True


def _becomes_ready(stage: Stage, live: Live, keys: Sequence[str]) -> None:
    began = time.monotonic()
    what = f"{', '.join(keys)} can be read again"
    until(lambda: all(_is_readable(live, key) for key in keys), READY_S, what)
    until(lambda: _is_ready(live), READY_S, f"ready again after {', '.join(keys)}")
    took = time.monotonic() - began
    stage.finding.expect(f"expected readiness within the limit, found {took:.0f} s", holds=took < READY_S)
    stage.finding.figures[f"ready again after {', '.join(keys)}"] = f"{took:.1f} s"


SCENARIOS = {
    "objects that cannot be read": Scenario(
        objects_unreadable,
        f"one CSV is a reject, and ready {READY_S:.0f} s after published objects become unreadable",
        ("rewriting",),
        short=True,
    ),
}
