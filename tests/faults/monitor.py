"""Looks at each write of what is published, and at each step of the protocol, the moment it is done."""

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
    """Of the two published files, all versions are kept, and how many there were at each fault that took the lease."""

    def __init__(self, redis: "Redis", output: ObjectStore, oracle: Oracle, transit: Transit) -> None:
        self._redis: Any = redis
        self._output, self._oracle, self._transit = output, oracle, transit
        self._versions: dict[str, list[str | None]] = {OUTPUT: [None], REJECTS: [None]}
        self._leases_lost: list[int] = []
        self.workers_lost: Callable[[], int] = lambda: 0
        """How many processes have died, or stand still."""

    def lease_lost(self) -> None:
        """A fault has taken the lease from any publisher that lives."""
        self._leases_lost.append(len(self._versions[OUTPUT]))

    def writing(self, key: str, expected: str | None) -> Callable[[], None]:
        """A write is about to be done, by a client that believes `expected` to be there; call the answer after it."""
        before, writer = self._output.etag(key), current()

        def written() -> None:
            self.changed(key)
            if key in self._versions and before != expected:
                self._oracle.found.append(f"{key} was written over what its writer had not seen")
            if key == OUTPUT:
                self._oracle.served(excused=self._excused(writer, expected))

        return written

    def changed(self, key: str) -> None:
        """A published file is another one now."""
        if key in self._versions:
            self._versions[key].append(self._output.etag(key))

    def _excused(self, writer: Actor | None, expected: str | None) -> bool:
        """Whether this is a write that no protocol can forbid.

        It lands late; or a fault has taken the lease from its writer, who had read or written a file with these very
        bytes before.  (What a writer learns afterwards it must not use.)
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
        """The source is listed."""
        actor = current()
        if actor:
            actor.unheard = dict(self._transit.unheard)

    def script(self, name: str, args: tuple[Any, ...]) -> Callable[[Any], None]:
        """A script is about to run; call the answer with its own answer."""
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
            self._oracle.found.append("a publisher that was replaced has read what is staged for its successor")

    def _look_at_readings(self, readings: Sequence[Any]) -> None:
        for user_id, outcome in zip(readings[::5], readings[3::5], strict=True):
            if QUARANTINED in outcome:
                self._oracle.unread(user_id, self.workers_lost())

    def _look_at_clean(self, writer: Actor, args: tuple[Any, ...]) -> None:
        for key, etag in zip((OUTPUT, REJECTS), _arguments(args)[1:3], strict=True):
            if etag not in self._versions[key][writer.since[key] :]:
                self._oracle.found.append(f"{key} was recorded as published without having been looked at")


def _arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of EVALSHA that are no keys."""
    return args[3 + int(args[2]) :]
