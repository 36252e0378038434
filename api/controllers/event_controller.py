"""POST /events: pass the events of a store on to the list that MinIO's own target writes to."""

import logging
from typing import Any, NamedTuple

import falcon
from redis import Redis

from api.web.problems import Problem, build_unavailable_problem
from api.web.thread_pool import ThreadPool
from shared.formats.events import InvalidEvent, Notification, decode_notification, encode_entry
from shared.redis_keys import FAST_EVENTS

MAX_EVENTS = 1_000
"""Limit of the events of one request."""
MAX_WAITING_EVENTS = 100_000
"""With this many entries in the event list, requests are refused until the listener has caught up.

The list has a limit because a sender could otherwise fill Redis.
"""
KNOWN_FORMS = (
    "an S3 notification with Records (MinIO, RustFS, Ceph, AWS), a message of AWS SNS, an event of "
    "AWS EventBridge, or a message of SeaweedFS's webhook"
)

logger = logging.getLogger(__name__)


class ReceivedEvents(NamedTuple):
    """The numbers of events in a request: those in the list now, and those that were ignored."""

    accepted: int
    ignored: int


class EventController:
    """Receives events. An event is only a hint, so it is neither verified nor compared.

    `compute_pool` decodes the bodies, `redis_pool` runs what waits for Redis.
    """

    def __init__(
        self,
        redis: "Redis",
        source_bucket: str,
        compute_pool: ThreadPool,
        redis_pool: ThreadPool,
    ) -> None:
        self._redis: Any = redis
        self._source_bucket = source_bucket
        self._compute_pool = compute_pool
        self._redis_pool = redis_pool

    async def receive(self, body: bytes) -> ReceivedEvents:
        """Append the events about the source bucket to the event list, all or none of them.

        Raises a 400, 413 or 503, and `redis.exceptions.RedisError` if Redis is
        unavailable. Then the sender must repeat the request.
        """
        received, entries = await self._compute_pool.run(self._decode, body)
        if entries:
            await self._redis_pool.run(self._append_entries, entries)
        return received

    def _decode(self, body: bytes) -> tuple[ReceivedEvents, list[bytes]]:
        try:
            notification = decode_notification(body)
        except InvalidEvent as error:
            detail = f"The body is {error.reason}.  It must be {KNOWN_FORMS}."
            raise falcon.HTTPBadRequest(description=detail) from None
        if len(notification.events) > MAX_EVENTS:
            detail = f"A request may have at most {MAX_EVENTS:,} events."
            raise Problem("too-large", detail)
        _log_subscription(notification)
        entries = [
            encode_entry(event)
            for event in notification.events
            if event.bucket == self._source_bucket
        ]
        other_buckets = len(notification.events) - len(entries)
        return ReceivedEvents(len(entries), notification.ignored_count + other_buckets), entries

    def _append_entries(self, entries: list[bytes]) -> None:
        # Concurrent requests may exceed the limit by their own events.
        if self._redis.llen(FAST_EVENTS) + len(entries) > MAX_WAITING_EVENTS:
            detail = "Too many events wait to be processed; retry."
            raise build_unavailable_problem(detail)
        self._redis.rpush(FAST_EVENTS, *entries)


def _log_subscription(notification: Notification) -> None:
    if notification.subscribe_url:
        # Not fetched: anyone with the token could make this process send requests to any address.
        logger.warning(
            "AWS SNS asks for the confirmation of a subscription; if it is yours, open %r",
            notification.subscribe_url[:2000],
        )
