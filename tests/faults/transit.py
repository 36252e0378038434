"""Events on their way from MinIO to Redis: delayed, out of order, duplicated or lost.

Each event travels by two ways, to the fast list and to the durable list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis import Redis

from worker.backlog import FAST, SAFE

WAYS = (FAST, SAFE)


@dataclass(eq=False)
class Event:
    """What MinIO reports about one write of this user.

    `lost`: the ways on which a copy was lost without a trace.
    """

    raw: bytes
    user_id: str
    lost: set[str] = field(default_factory=set)
    unheard: bool = False


class Transit:
    """The events that are not in Redis yet, one copy for each of the `ways`.

    `unheard`: users with an event that was lost without a trace, each with the number of its last
    such loss. If one copy is lost, the other one replaces it. Identical events are counted, though.
    A missing durable copy, or an extra fast copy, can therefore hide the loss of another fast copy.
    """

    def __init__(self, client: "Redis", ways: Sequence[str] = WAYS) -> None:
        self._redis: Any = client
        self.waiting: dict[str, list[Event]] = {way: [] for way in ways}
        self.unheard: dict[str, int] = {}
        self._all: list[Event] = []
        self._miscounted: set[bytes] = set()
        self._losses = count(1)

    def add(self, raws: Sequence[bytes], user_id: str) -> None:
        """Add events that MinIO has to send."""
        for raw in raws:
            event = Event(raw, user_id)
            self._all.append(event)
            for waiting in self.waiting.values():
                waiting.append(event)

    def deliver(self, way: str, place: int = 0, number: int = 1) -> None:
        """Push `number` events to Redis, from index `place` on.

        Any other `place` than 0 delivers them out of order.
        """
        for _ in range(min(number, len(self.waiting.get(way, ())))):
            self._push(way, self.waiting[way].pop(place % len(self.waiting[way])))

    def double(self, way: str, place: int) -> None:
        """Push an event to Redis that will be delivered once more."""
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
        """Drop a copy, or return False if no copy is waiting.

        If `traced`, MinIO counts the loss.
        """
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
        """Record that the counts of these events (None: of all) may be too high from now on."""
        self._miscounted |= {event.raw for event in self._all} if raws is None else set(raws)
        for event in self._all:
            self._consider(event)

    def heard(self, unheard: Mapping[str, int]) -> None:
        """Remove users with losses that a sweep has found.

        `unheard`: the losses before its LIST. A user with a later loss remains.
        """
        for user_id, loss in unheard.items():
            if self.unheard.get(user_id) == loss:
                del self.unheard[user_id]

    def lose_all(self) -> None:
        """Drop all events that MinIO has not sent, as a kill does.

        MinIO's metrics show the restart, so these events are not lost without a trace.
        """
        self.miscount(event.raw for event in self.waiting.get(SAFE, ()))
        for waiting in self.waiting.values():
            waiting.clear()

    def deliver_all(self) -> None:
        """Push all remaining events to Redis, the fast list first."""
        for way, waiting in self.waiting.items():
            self.deliver(way, 0, len(waiting))
