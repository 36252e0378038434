"""Events on their way from MinIO to Redis, each by two ways: delayed, out of order, doubled, lost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis import Redis

from worker.backlog import FAST, SAFE

WAYS = (FAST, SAFE)


@dataclass(eq=False)
class Event:
    """What MinIO said of one write of this user; `lost` are the ways on which a copy got lost without a trace."""

    raw: bytes
    user_id: str
    lost: set[str] = field(default_factory=set)
    unheard: bool = False


class Transit:
    """The events that are not in Redis yet, each by all the `ways`.

    `unheard` are the users of whom one was lost without a trace, each with the number of the last such loss.  A lost
    copy is made up for by the other one; but of events that are twins to the byte, a copy too few by the safe way, or
    one too many by the fast way, may hide another whose fast copy was lost.
    """

    def __init__(self, client: "Redis", ways: Sequence[str] = WAYS) -> None:
        self._redis: Any = client
        self.waiting: dict[str, list[Event]] = {way: [] for way in ways}
        self.unheard: dict[str, int] = {}
        self._all: list[Event] = []
        self._miscounted: set[bytes] = set()
        self._losses = count(1)

    def add(self, raws: Sequence[bytes], user_id: str) -> None:
        """MinIO has these to tell."""
        for raw in raws:
            event = Event(raw, user_id)
            self._all.append(event)
            for waiting in self.waiting.values():
                waiting.append(event)

    def deliver(self, way: str, place: int = 0, number: int = 1) -> None:
        """Push `number` events to Redis from `place` on, which is out of order unless it is 0."""
        for _ in range(min(number, len(self.waiting.get(way, ())))):
            self._push(way, self.waiting[way].pop(place % len(self.waiting[way])))

    def double(self, way: str, place: int) -> None:
        """Push an event that is to come once more."""
        event = self._pick(way, place)
        if event:
            self._push(way, event)
            if way == FAST:
                self.miscount([event.raw])

    def _pick(self, way: str, place: int) -> Event | None:
        waiting = self.waiting.get(way)
        return waiting[place % len(waiting)] if waiting else None

    def _push(self, way: str, event: Event) -> None:
        self._redis.rpush(way, event.raw)

    def lose(self, way: str, place: int, *, traced: bool) -> bool:
        """Drop a copy; `traced`: MinIO counts that.  False if there is none."""
        event = self._pick(way, place)
        if event is None:
            return False
        self.waiting[way].remove(event)
        if not traced:
            event.lost.add(way)
            self._consider(event)
        if way == SAFE:
            self.miscount([event.raw])
        return True

    def _consider(self, event: Event) -> None:
        hidden = FAST in event.lost and event.raw in self._miscounted and self._has_twins(event)
        if not event.unheard and (hidden or event.lost >= self.waiting.keys()):
            event.unheard = True
            self.unheard[event.user_id] = next(self._losses)

    def _has_twins(self, event: Event) -> bool:
        return sum(other.raw == event.raw for other in self._all) > 1

    def miscount(self, raws: Iterable[bytes] | None = None) -> None:
        """The counts of these events (None: of all) may be too high from now on."""
        self._miscounted |= {event.raw for event in self._all} if raws is None else set(raws)
        for event in self._all:
            self._consider(event)

    def heard(self, unheard: Mapping[str, int]) -> None:
        """A sweep has found what was lost before its LIST: these."""
        for user_id, loss in unheard.items():
            if self.unheard.get(user_id) == loss:
                del self.unheard[user_id]

    def lose_all(self) -> None:
        """MinIO was killed: what it had not sent is gone, but it starts anew, which can be seen."""
        self.miscount(event.raw for event in self.waiting.get(SAFE, ()))
        for waiting in self.waiting.values():
            waiting.clear()

    def deliver_all(self) -> None:
        """All that is left, the fast way first."""
        for way, waiting in self.waiting.items():
            self.deliver(way, 0, len(waiting))
