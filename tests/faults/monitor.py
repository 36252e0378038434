"""Invariant checks on each write of a published file, and on each step of the state protocol."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.records import QUARANTINE_REASON
from shared.object_store import ObjectStore
from shared.redis_keys import WRITER_LEASE
from tests.faults.actors import Actor, get_current_actor
from tests.faults.event_transit import EventTransit
from tests.faults.oracle import Oracle
from worker.state.publish_queue import WRITER_LEASE_MS


class ProtocolMonitor:
    """Checks published writes and protocol steps at the moment they happen.

    It keeps the ETags of all versions of the two published files. For each fault that took the
    writer lease, it keeps the number of versions of output.csv at that time.
    """

    def __init__(
        self, redis: "Redis", output: ObjectStore, oracle: Oracle, transit: EventTransit
    ) -> None:
        self._redis: Any = redis
        self._output = output
        self._oracle = oracle
        self._transit = transit
        self._versions: dict[str, list[str | None]] = {OUTPUT_KEY: [None], REJECTS_KEY: [None]}
        self._leases_lost: list[int] = []
        self.count_lost_workers: Callable[[], int] = lambda: 0
        """Returns the number of processes that have died or are paused."""

    def record_lost_lease(self) -> None:
        """Record that a fault took the lease from the current publisher, if there is one."""
        self._leases_lost.append(len(self._versions[OUTPUT_KEY]))

    def before_write(self, key: str, expected: str | None) -> Callable[[], None]:
        """Check a write before it is done, and return a function to call after it.

        `expected`: the ETag that the writer expects the object to have (None: no object).
        """
        before = self._output.get_etag(key)
        writer = get_current_actor()

        def after_write() -> None:
            self.record_version(key)
            if key in self._versions and before != expected:
                self._oracle.problems.append(
                    f"{key}: expected the write to replace the version that its writer read, "
                    "found another version replaced"
                )
            if key == OUTPUT_KEY:
                self._oracle.check_published_rows(
                    is_unpreventable=self._is_unpreventable(writer, expected)
                )

        return after_write

    def record_version(self, key: str) -> None:
        """Record the new version of a published file."""
        if key in self._versions:
            self._versions[key].append(self._output.get_etag(key))

    def _is_unpreventable(self, writer: Actor | None, expected: str | None) -> bool:
        """Return whether no protocol can prevent this write.

        A late write has no writer any more. The write of a running writer is unpreventable only
        after the writer lost its lease: in real time, or by a fault. After a fault, the replaced
        version must be one that existed between the writer's ACQUIRE WRITER and that fault. What a
        writer reads after it lost the lease, it must not use.
        """
        if writer is None:
            return True
        if self._redis.get(WRITER_LEASE) == writer.token.encode():
            return False
        if time.monotonic() > writer.lease_expires_at:
            return True
        lost_leases = self._leases_lost[writer.lost_lease_count :]
        return (
            bool(lost_leases)
            and expected
            in self._versions[OUTPUT_KEY][writer.first_seen_versions[OUTPUT_KEY] : lost_leases[0]]
        )

    def before_list(self) -> None:
        """Record for the current actor which events were lost before this LIST of the source."""
        actor = get_current_actor()
        if actor:
            actor.lost_events = dict(self._transit.lost_users)

    def before_script(self, name: str, args: tuple[Any, ...]) -> Callable[[Any], None]:
        """Check a script before it runs, and return a function to call with the script's result."""
        writer = get_current_actor()
        if writer and name == "ACQUIRE_WRITER":
            writer.token = _get_arguments(args)[0]
            writer.lost_lease_count = len(self._leases_lost)
            writer.lease_expires_at = time.monotonic() + WRITER_LEASE_MS / 1000
            writer.first_seen_versions = {
                key: len(versions) - 1 for key, versions in self._versions.items()
            }
        if (
            writer
            and name == "COMMIT_PUBLISH"
            and self._redis.get(WRITER_LEASE) == writer.token.encode()
        ):
            self._check_commit(writer, args)
        if writer and name == "SUBMIT_RESULTS":
            self._check_submitted_results(_get_arguments(args)[2:])
        return lambda response: self._after_script(writer, name, response)

    def _after_script(self, writer: Actor | None, name: str, response: Any) -> None:  # noqa: ANN401
        if writer and name == "COMMIT_SWEEP":
            self._transit.clear_lost(writer.lost_events)
        if (
            writer
            and name == "READ_PENDING"
            and response
            and self._redis.get(WRITER_LEASE) != writer.token.encode()
        ):
            self._oracle.problems.append(
                "READ_PENDING: expected no results for a publisher without the writer lease, "
                "found that a replaced publisher read the pending results of its successor"
            )

    def _check_submitted_results(self, results: Sequence[Any]) -> None:
        for user_id, outcome in zip(results[::5], results[3::5], strict=True):
            if QUARANTINE_REASON in outcome:
                self._oracle.record_quarantine(user_id, self.count_lost_workers())

    def _check_commit(self, writer: Actor, args: tuple[Any, ...]) -> None:
        for key, etag in zip((OUTPUT_KEY, REJECTS_KEY), _get_arguments(args)[1:3], strict=True):
            if etag not in self._versions[key][writer.first_seen_versions[key] :]:
                self._oracle.problems.append(
                    f"{key}: expected COMMIT_PUBLISH to record an ETag that the object had since "
                    "ACQUIRE_WRITER, found an ETag recorded without verification"
                )


def _get_arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of EVALSHA that are not keys."""
    return args[3 + int(args[2]) :]
