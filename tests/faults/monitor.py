"""Invariant checks on each write of a published file, and on each step of the state protocol."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from shared.object_store import ObjectStore
from shared.published import OUTPUT, REJECTS
from shared.records import QUARANTINED
from tests.faults.actors import Actor, current
from tests.faults.oracle import Oracle
from tests.faults.transit import Transit
from worker.backlog import LEASE_MS


class Monitor:
    """Checks published writes and protocol steps at the moment they happen.

    It keeps the ETags of all versions of the two published files. For each fault that took the
    writer lease, it keeps the number of versions of output.csv at that time.
    """

    def __init__(self, redis: "Redis", output: ObjectStore, oracle: Oracle, transit: Transit) -> None:
        self._redis: Any = redis
        self._output, self._oracle, self._transit = output, oracle, transit
        self._versions: dict[str, list[str | None]] = {OUTPUT: [None], REJECTS: [None]}
        self._leases_lost: list[int] = []
        self.workers_lost: Callable[[], int] = lambda: 0
        """Returns the number of processes that have died or are paused."""

    def lease_lost(self) -> None:
        """Record that a fault took the lease from the current publisher, if there is one."""
        self._leases_lost.append(len(self._versions[OUTPUT]))

    def writing(self, key: str, expected: str | None) -> Callable[[], None]:
        """Check a write before it is done, and return a function to call after it.

        `expected`: the ETag that the writer expects the object to have (None: no object).
        """
        before, writer = self._output.etag(key), current()

        def written() -> None:
            self.changed(key)
            if key in self._versions and before != expected:
                self._oracle.found.append(
                    f"{key}: expected the write to replace the version that its writer read, "
                    "found another version replaced"
                )
            if key == OUTPUT:
                self._oracle.served(excused=self._excused(writer, expected))

        return written

    def changed(self, key: str) -> None:
        """Record the new version of a published file."""
        if key in self._versions:
            self._versions[key].append(self._output.etag(key))

    def _excused(self, writer: Actor | None, expected: str | None) -> bool:
        """Return whether no protocol can prevent this write.

        A late write has no writer any more. A living writer is excused only after it lost its
        lease: in real time, or by a fault. After a fault, the replaced version must be one that
        existed between the writer's BEGIN and that fault. What a writer reads after it lost the
        lease, it must not use.
        """
        if writer is None:
            return True
        if self._redis.get("writer") == writer.token.encode():
            return False
        if time.monotonic() > writer.lease_ends:
            return True
        lost = self._leases_lost[writer.leases_lost :]
        return bool(lost) and expected in self._versions[OUTPUT][writer.since[OUTPUT] : lost[0]]

    def listing(self) -> None:
        """Record for the current actor which events were lost before this LIST of the source."""
        actor = current()
        if actor:
            actor.unheard = dict(self._transit.unheard)

    def script(self, name: str, args: tuple[Any, ...]) -> Callable[[Any], None]:
        """Check a script before it runs, and return a function to call with the script's result."""
        writer = current()
        if writer and name == "BEGIN":
            writer.token, writer.leases_lost = _arguments(args)[0], len(self._leases_lost)
            writer.lease_ends = time.monotonic() + LEASE_MS / 1000
            writer.since = {key: len(versions) - 1 for key, versions in self._versions.items()}
        if writer and name == "CLEAN" and self._redis.get("writer") == writer.token.encode():
            self._look_at_clean(writer, args)
        if writer and name == "STAGE":
            self._look_at_readings(_arguments(args)[2:])
        return lambda answer: self._ran(writer, name, answer)

    def _ran(self, writer: Actor | None, name: str, answer: Any) -> None:  # noqa: ANN401
        if writer and name == "COMMIT":
            self._transit.heard(writer.unheard)
        if writer and name == "BATCH" and answer and self._redis.get("writer") != writer.token.encode():
            self._oracle.found.append(
                "BATCH: expected no results for a publisher without the writer lease, "
                "found that a replaced publisher read the pending results of its successor"
            )

    def _look_at_readings(self, readings: Sequence[Any]) -> None:
        for user_id, outcome in zip(readings[::5], readings[3::5], strict=True):
            if QUARANTINED in outcome:
                self._oracle.unread(user_id, self.workers_lost())

    def _look_at_clean(self, writer: Actor, args: tuple[Any, ...]) -> None:
        for key, etag in zip((OUTPUT, REJECTS), _arguments(args)[1:3], strict=True):
            if etag not in self._versions[key][writer.since[key] :]:
                self._oracle.found.append(
                    f"{key}: expected CLEAN to record an ETag that the object had since BEGIN, "
                    "found an ETag recorded without verification"
                )


def _arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of EVALSHA that are not keys."""
    return args[3 + int(args[2]) :]
