"""Loss signals and the trust state: whether events or writes may have been lost.

A loss signal leads to a sweep. Only a sweep during which no loss signal arrives makes the trust
state verified.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis

from shared.redis_keys import (
    COUNTERS,
    LAST_PUBLISH,
    LAST_SWEEP,
    LOSS_SIGNALS,
    LOSS_SIGNALS_IN_SWEEP,
    TRUST_STATE,
)
from shared.scripts import Scripts, decode_optional

logger = logging.getLogger(__name__)

LOSS_SIGNAL_KINDS = {
    "minio_restarted": "MinIO was restarted",
    "events_skipped": "MinIO skipped events because its in-memory queue was full",
    "events_failed": "MinIO failed to send events",
    "rules_missing": "MinIO's notification rules for the source bucket were missing",
    "redis_restarted": "Redis was restarted",
    "redis_emptied": "Redis was emptied",
    "files_changed": "output.csv, rejects.csv or bundles.json is not what was last written",
    "publish_broken_off": "a publish was aborted, and its writes may have happened",
    "publisher_replaced": "a publisher lost its lease while it wrote",
    "earlier_release": "a process of an earlier release was still running",
}
"""The kinds of loss signals. Each has the same effect: the watchdog requests a sweep."""
FIRST_START = "first_start"
"""Reason of a sweep that finds neither a trust state nor a loss signal: the first sweep of all."""
START_CAUSE = "start"
UNFINISHED_CAUSE = "the last sweep did not finish"
"""Causes of sweeps that, like those after a loss signal, find what an interruption has left."""


class TrustState(NamedTuple):
    """The trust state while it is not suspect, i.e. while there is no unhandled loss signal.

    `state` is "verified", or "verifying" while a sweep runs. `run_id` is that of the Redis that the
    sweep verified, None before.
    """

    state: str
    run_id: str | None

    @property
    def is_verified(self) -> bool:
        """Whether no loss is known, and no sweep runs."""
        return self.state == "verified"


class LossSignals:
    """The loss signals, the trust state, and the steps of a sweep that change them.

    Names in capitals, such as BEGIN SWEEP, are the scripts in `shared/lua/`: one atomic step
    each. `docs/protocol.md` says what goes wrong without each of their rules.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", scripts: Scripts) -> None:
        self._redis: Any = client
        self._add_loss_signal = scripts["add_loss_signal"]
        self._begin_sweep = scripts["begin_sweep"]
        self._commit_sweep = scripts["commit_sweep"]

    def run_id(self) -> str:
        """Return Redis's `run_id`. It changes with each restart, which may lose recent writes."""
        return str(self._redis.info("server")["run_id"])

    def trust_state(self) -> TrustState | None:
        """Return the trust state, None (suspect) after a loss signal."""
        state, run_id = self._redis.hmget(TRUST_STATE, "state", "run_id")
        return TrustState(state.decode(), decode_optional(run_id)) if state else None

    def add(self, kind: str) -> None:
        """Add a loss signal, which leads to a sweep (ADD LOSS SIGNAL).

        `kind` is one of `LOSS_SIGNAL_KINDS`. Each kind is logged and counted for the operator
        once until a sweep begins.
        """
        if self._add_loss_signal([TRUST_STATE, LOSS_SIGNALS, COUNTERS], [kind]):
            logger.warning(
                "loss signal %s: %s; a sweep will reconcile all users",
                kind,
                LOSS_SIGNAL_KINDS.get(kind, "events or writes may be lost"),
            )

    def unresolved(self) -> set[str]:
        """Return the kinds of loss signals that no committed sweep covers."""
        return {kind.decode() for kind in self._redis.sunion(LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP)}

    def begin_sweep(self, sweep_token: str) -> set[str]:
        """Set the trust state to verifying, before the sweep's LIST (BEGIN SWEEP).

        A loss signal from now on makes the sweep's commit fail. Returns the kinds of loss signals
        that the sweep handles, `FIRST_START` included.
        """
        kinds = self._begin_sweep([TRUST_STATE, LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP], [sweep_token])
        return {kind.decode() for kind in kinds}

    def commit_sweep(
        self,
        sweep_token: str,
        publisher_before_list: str | None,
        compared_etags: tuple[str | None, str | None],
        run_id: str,
        summary: Mapping[str, Any],
    ) -> bool:
        """Record a sweep that has marked all its users, and renew the trust state (COMMIT SWEEP).

        The trust state becomes verified only if it still has this `sweep_token`: each loss signal
        removes it. Returns whether it did; if not, another sweep is due.

        `compared_etags` are those of output.csv and rejects.csv as the sweep compared them, None if
        an object was missing. They are recorded as published, but only if
        `publisher_before_list`, the token that the last publish had recorded when the sweep listed
        the source bucket, is still the recorded one: otherwise the objects may be newer than the
        comparison. `run_id` is that of Redis before the LIST: if Redis has restarted since, the
        trust state does not match it. `summary` becomes the record of the last sweep in any case;
        its fields are those of `shared.progress.sweep_record`.
        """
        pairs = [item for pair in summary.items() for item in pair]
        arguments = [
            sweep_token,
            publisher_before_list or "",
            compared_etags[0] or "",
            compared_etags[1] or "",
            run_id,
            *pairs,
        ]
        return bool(
            self._commit_sweep(
                [TRUST_STATE, LAST_PUBLISH, LAST_SWEEP, LOSS_SIGNALS_IN_SWEEP], arguments
            )
        )
