"""Background thread that keeps the view of an API process up to date.

It reads `output.csv` and `rejects.csv` from MinIO after each publish notification, and at least
every `POLL_INTERVAL_S` seconds. Redis only provides these notifications and the status of the
pipeline. While MinIO or Redis is unavailable, the process continues to serve its last snapshot.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from redis import Redis
from redis.exceptions import RedisError

from api.snapshot.consistency import ConsistencyTracker
from api.snapshot.process_registry import ProcessRegistry
from api.snapshot.table import EMPTY_TABLE
from api.snapshot.view import ServedVersion, View, ViewUpdate
from shared.duty_cycle import DutyCycle
from shared.formats import rejects_csv as rejects
from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import InvalidOutputCsv
from shared.object_store import NotModified, ObjectNotFound, ObjectStore, StoreUnavailable
from shared.progress.pipeline_status import PipelineStatus, read_pipeline_status
from shared.redis_keys import PUBLISH_DONE_CHANNEL

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 2.0
"""Seconds after which a round begins without a notification."""
RECONNECT_DELAY_S = 1.0
"""Seconds between two attempts to connect to Redis."""
MAX_SERVED_VERSIONS = 200
"""Versions of output.csv of which a process knows since when it serves them, the newest."""
POLL_TIME_FRACTION = 0.25
"""The thread works for at most this share of the time.

So publishes in quick succession leave time for requests.
"""
POLL_BURST_S = 0.1
"""Seconds that the thread may work without a pause after it was idle."""
MAX_POLL_CHARGE_S = 1.0
"""Seconds for which a round counts at most.

So the pause after a timeout of MinIO is about 4 s and does not grow with the timeout.
"""


class FollowerConnections(NamedTuple):
    """The clients of one follower: the output bucket and Redis."""

    output_store: ObjectStore
    redis: "Redis"


class Follower:
    """The follower of one process.

    It opens no connection and starts no thread before `start`, so it can be created before a fork.
    `clock` returns Unix seconds.
    """

    def __init__(
        self,
        open_connections: Callable[[], FollowerConnections],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open_connections = open_connections
        self._clock = clock
        self._stop_requested = threading.Event()
        self._first_poll_done = threading.Event()
        self._thread: threading.Thread | None = None
        self._poller: SnapshotPoller | None = None

    @property
    def view(self) -> View:
        """The current view of this process; an empty view before `start`."""
        return self._poller.view if self._poller else View()

    def start(self, wait_s: float = 0.0) -> None:
        """Connect and start the thread; return after its first round.

        `wait_s` limits the wait for that round, in seconds.
        """
        connections = self._open_connections()
        poller = SnapshotPoller(connections, self._clock)
        self._poller = poller
        thread_arguments = (poller, _PublishSubscription(connections.redis))
        self._thread = threading.Thread(
            target=self._poll_until_stopped, args=thread_arguments, name="follower", daemon=True
        )
        self._thread.start()
        self._first_poll_done.wait(wait_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread and remove this process from the list of live ones.

        `timeout_s` limits the wait for the end of the thread, in seconds.
        """
        self._stop_requested.set()
        if self._poller and self._thread:
            with suppress(RedisError):
                self._poller.registry.request_poll()  # wakes this process's own follower
            self._thread.join(timeout_s)

    def _poll_until_stopped(
        self, poller: "SnapshotPoller", subscription: "_PublishSubscription"
    ) -> None:
        duty_cycle = DutyCycle(POLL_TIME_FRACTION, POLL_BURST_S, time.monotonic)
        while not self._stop_requested.is_set():
            started_at = time.monotonic()
            try:
                poller.poll_once()
            except Exception:
                # The thread must survive: without it the process would serve stale rows silently.
                logger.exception(
                    "unexpected error in the follower; serving the last snapshot, retrying"
                )
            self._first_poll_done.set()
            duty_cycle.charge(min(time.monotonic() - started_at, MAX_POLL_CHARGE_S))
            # Without Redis the wait ends early: RECONNECT_DELAY_S limits the reconnection attempts.
            if not subscription.wait_for_message(POLL_INTERVAL_S):
                self._stop_requested.wait(RECONNECT_DELAY_S)
            self._stop_requested.wait(duty_cycle.compute_wait_s())
            # Notifications that arrived during the pause are answered by the next round.
            subscription.discard_pending()
        with suppress(RedisError):
            poller.registry.unregister()


class SnapshotPoller:
    """The work of a follower: one round reads all sources once and replaces `view`."""

    def __init__(self, connections: FollowerConnections, clock: Callable[[], float]) -> None:
        self._store, self._redis = connections
        self._clock = clock
        self.registry = ProcessRegistry(connections.redis)
        self.view = View()
        self._last_poll_started_at = 0.0
        self._rejects_etag: str | None = None
        self._consistency = ConsistencyTracker()

    def poll_once(self) -> None:
        """Read MinIO and Redis once. An outage is recorded in the view and not raised."""
        # This process reports the start of the round, not its end: a publish during the round may
        # have been missed.
        poll_started_at = self._send_heartbeat()
        self._poll_store()
        if poll_started_at is not None and self.view.store_error is None:
            self._last_poll_started_at = poll_started_at
        if poll_started_at is not None:
            self._load_status()

    def _update_view(self, **changes: Unpack[ViewUpdate]) -> None:
        view = replace(self.view, **changes)
        # Computed here and not by the first request, which would block the event loop.
        _ = view.reject_list.held_user_ids, view.reject_list.entries
        self.view = view

    # -- MinIO -------------------------------------------------------------------------------------
    def _poll_store(self) -> None:
        started_at = self._clock()
        try:
            self._load_table(started_at)
            self._load_rejects()
        except (
            StoreUnavailable,
            ObjectNotFound,
            InvalidOutputCsv,
            rejects.InvalidRejectsCsv,
        ) as error:
            message = f"{error} does not exist" if isinstance(error, ObjectNotFound) else str(error)
            # Log each error once: a round runs at least every POLL_INTERVAL_S seconds.
            if message != self.view.store_error:
                logger.warning(
                    "output.csv or rejects.csv cannot be read: %s; "
                    "serving the last snapshot, retrying",
                    message,
                )
            self._update_view(store_error=message)
        else:
            self._update_view(store_error=None, store_polled_at=started_at)

    def _load_table(self, polled_at: float) -> None:
        table = EMPTY_TABLE if self.view.table is None else self.view.table
        with suppress(NotModified):
            stored = self._store.get(OUTPUT_KEY, if_none_match=table.etag or None)
            newer = table.build_next_version(stored.body, stored.etag)
            version = ServedVersion(stored.etag, polled_at, self._clock())
            served = (*self.view.served_versions, version)[-MAX_SERVED_VERSIONS:]
            self._update_view(table=newer, served_versions=served)

    def _load_rejects(self) -> None:
        with suppress(NotModified, ObjectNotFound):
            stored = self._store.get(REJECTS_KEY, if_none_match=self._rejects_etag)
            self._update_view(rejects=rejects.decode_rejects(stored.body))
            # Only after the decoding: an invalid file is read again in the next round.
            self._rejects_etag = stored.etag

    # -- Redis -------------------------------------------------------------------------------------
    def _send_heartbeat(self) -> float | None:
        try:
            return self.registry.send_heartbeat(self._last_poll_started_at)
        except RedisError as error:
            self._record_redis_outage(error)
            return None

    def _load_status(self) -> None:
        # Events that arrive after this moment may be missing from the figures.
        requested_at = self._clock()
        try:
            self.registry.send_heartbeat(self._last_poll_started_at)
            pipeline_status = read_pipeline_status(self._redis)
        except RedisError as error:
            self._record_redis_outage(error)
            return
        now = self._clock()
        table = self.view.table
        if self.view.store_error is None:
            served_etag = None if table is None else table.etag
            self._consistency.update(pipeline_status, served_etag, requested_at)
        self._update_view(
            pipeline_status=pipeline_status,
            redis_answered_at=now,
            suspect_since=None if pipeline_status.no_known_loss else self.view.suspect_since or now,
            events_stalled_since=self._compute_stall_start(pipeline_status, now),
            consistent_as_of=self._consistency.as_of,
            redis_error=None,
        )

    def _compute_stall_start(self, pipeline_status: PipelineStatus, now: float) -> float | None:
        previous = self.view.pipeline_status
        if not pipeline_status.waiting_events:
            return None
        # The same digest of the first events means that the listener has processed none of them.
        has_progressed = previous is None or previous.inbox_head != pipeline_status.inbox_head
        return now if has_progressed else self.view.events_stalled_since or now

    def _record_redis_outage(self, error: RedisError) -> None:
        self._consistency.record_redis_outage()
        self._update_view(redis_error=str(error), events_stalled_since=None)


class _PublishSubscription:
    """A Redis subscription to publish notifications."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._pubsub: Any = None

    def wait_for_message(self, timeout_s: float) -> bool:
        """Wait for a notification, at most `timeout_s`; return False if Redis is unavailable.

        Returns immediately after a (re)connection, because a notification may have been missed.
        """
        try:
            if self._pubsub is None:
                pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                pubsub.subscribe(PUBLISH_DONE_CHANNEL)
                # Wait for the confirmation: later notifications are then delivered.
                pubsub.get_message(timeout=1.0)
                self._pubsub = pubsub
            else:
                self._pubsub.get_message(timeout=timeout_s)
        except RedisError:
            self._close()
            return False
        return True

    def discard_pending(self) -> None:
        """Discard pending notifications: one round answers all of them."""
        try:
            while self._pubsub and self._pubsub.get_message(timeout=0.0):
                pass
        except RedisError:
            self._close()

    def _close(self) -> None:
        if self._pubsub:
            with suppress(RedisError):
                self._pubsub.close()
        self._pubsub = None
