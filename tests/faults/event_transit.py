"""Events on their way from MinIO to Redis: delayed, out of order, duplicated or lost.

Each event travels by two routes, to the fast list and to the durable list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis import Redis

from shared.redis_keys import FAST_EVENTS, SAFE_EVENTS

EVENT_ROUTES = (FAST_EVENTS, SAFE_EVENTS)


@dataclass(eq=False)
class PendingEvent:
    """What MinIO reports about one write of this user.

    `lost_routes`: the routes on which a copy was lost without a trace.
    """

    entry: bytes
    user_id: str
    lost_routes: set[str] = field(default_factory=set)
    is_lost: bool = False


class EventTransit:
    """The events that are not in Redis yet, one copy for each of the `routes`.

    `lost_users`: users with an event that was lost without a trace, each with the number of its
    last such loss. If one copy is lost, the other one replaces it. Identical events are counted,
    though. A missing durable copy, or an extra fast copy, can therefore hide the loss of another
    fast copy.
    """

    def __init__(self, client: "Redis", routes: Sequence[str] = EVENT_ROUTES) -> None:
        self._redis: Any = client
        self.waiting: dict[str, list[PendingEvent]] = {route: [] for route in routes}
        self.lost_users: dict[str, int] = {}
        self._events: list[PendingEvent] = []
        self._miscounted: set[bytes] = set()
        self._loss_numbers = count(1)

    def add(self, entries: Sequence[bytes], user_id: str) -> None:
        """Add events that MinIO has to send."""
        for entry in entries:
            event = PendingEvent(entry, user_id)
            self._events.append(event)
            for waiting in self.waiting.values():
                waiting.append(event)

    def deliver(self, route: str, position: int = 0, number: int = 1) -> None:
        """Push `number` events to Redis, from index `position` on.

        Any other `position` than 0 delivers them out of order.
        """
        for _ in range(min(number, len(self.waiting.get(route, ())))):
            self._push(route, self.waiting[route].pop(position % len(self.waiting[route])))

    def duplicate(self, route: str, position: int) -> None:
        """Push an event to Redis that will be delivered once more."""
        event = self._get_waiting(route, position)
        if event:
            self._push(route, event)
            if route == FAST_EVENTS:
                self.mark_miscounted([event.entry])

    def _get_waiting(self, route: str, position: int) -> PendingEvent | None:
        waiting = self.waiting.get(route)
        return waiting[position % len(waiting)] if waiting else None

    def _push(self, route: str, event: PendingEvent) -> None:
        self._redis.rpush(route, event.entry)

    def lose(self, route: str, position: int, *, is_counted: bool) -> bool:
        """Drop a copy, or return False if no copy is waiting.

        If `is_counted`, MinIO counts the loss.
        """
        event = self._get_waiting(route, position)
        if event is None:
            return False
        self.waiting[route].remove(event)
        if not is_counted:
            event.lost_routes.add(route)
            self._update_lost(event)
        if route == SAFE_EVENTS:
            self.mark_miscounted([event.entry])
        return True

    def _update_lost(self, event: PendingEvent) -> None:
        is_hidden = (
            FAST_EVENTS in event.lost_routes
            and event.entry in self._miscounted
            and self._has_duplicates(event)
        )
        if not event.is_lost and (is_hidden or event.lost_routes >= self.waiting.keys()):
            event.is_lost = True
            self.lost_users[event.user_id] = next(self._loss_numbers)

    def _has_duplicates(self, event: PendingEvent) -> bool:
        return sum(other.entry == event.entry for other in self._events) > 1

    def mark_miscounted(self, entries: Iterable[bytes] | None = None) -> None:
        """Record that the counts of these events (None: of all) may be too high from now on."""
        self._miscounted |= (
            {event.entry for event in self._events} if entries is None else set(entries)
        )
        for event in self._events:
            self._update_lost(event)

    def clear_lost(self, lost_users: Mapping[str, int]) -> None:
        """Remove users with losses that a sweep has found.

        `lost_users`: the losses before its LIST. A user with a later loss remains.
        """
        for user_id, loss in lost_users.items():
            if self.lost_users.get(user_id) == loss:
                del self.lost_users[user_id]

    def lose_all_waiting(self) -> None:
        """Drop all events that MinIO has not sent, as a kill does.

        MinIO's metrics show the restart, so these events are not lost without a trace.
        """
        self.mark_miscounted(event.entry for event in self.waiting.get(SAFE_EVENTS, ()))
        for waiting in self.waiting.values():
            waiting.clear()

    def deliver_all(self) -> None:
        """Push all remaining events to Redis, the fast list first."""
        for route, waiting in self.waiting.items():
            self.deliver(route, 0, len(waiting))
