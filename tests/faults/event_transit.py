"""Events on their way from MinIO to Redis: delayed, out of order, duplicated or lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from redis import Redis

from shared.redis_keys import FAST_EVENTS


@dataclass(eq=False)
class PendingEvent:
    """What MinIO reports about one write of this user."""

    entry: bytes
    user_id: str


class EventTransit:
    """The events that are not in Redis yet.

    `lost_users`: users with an event that was lost without a trace, each with the number of its
    last such loss.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self.waiting: list[PendingEvent] = []
        self.lost_users: dict[str, int] = {}
        self._loss_numbers = count(1)

    def add(self, entries: Sequence[bytes], user_id: str) -> None:
        """Add events that MinIO has to send."""
        self.waiting += [PendingEvent(entry, user_id) for entry in entries]

    def deliver(self, position: int = 0, number: int = 1) -> None:
        """Push `number` events to Redis, from index `position` on.

        Any other `position` than 0 delivers them out of order.
        """
        for _ in range(min(number, len(self.waiting))):
            self._push(self.waiting.pop(position % len(self.waiting)))

    def duplicate(self, position: int) -> None:
        """Push an event to Redis that will be delivered once more."""
        if self.waiting:
            self._push(self.waiting[position % len(self.waiting)])

    def _push(self, event: PendingEvent) -> None:
        self._redis.rpush(FAST_EVENTS, event.entry)

    def lose(self, position: int, *, is_counted: bool) -> bool:
        """Drop an event, or return False if none is waiting.

        If `is_counted`, MinIO counts the loss.
        """
        if not self.waiting:
            return False
        event = self.waiting.pop(position % len(self.waiting))
        if not is_counted:
            self.lost_users[event.user_id] = next(self._loss_numbers)
        return True

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
        self.waiting.clear()

    def deliver_all(self) -> None:
        """Push all remaining events to Redis."""
        self.deliver(0, len(self.waiting))
