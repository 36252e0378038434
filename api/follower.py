"""Background thread that keeps the view of an API process up to date.

It reads `output.csv` and `rejects.csv` from MinIO after each publish notification, and at least
every `POLL_S` seconds. Redis only provides these notifications and the status of the pipeline.
While MinIO or Redis is unavailable, the process continues to serve its last snapshot.
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

from api.consistency import Consistency
from api.figures import Figures, read_figures
from api.presence import CHANNEL, Presence
from api.snapshot import EMPTY
from api.view import News, View
from shared import rejects
from shared.object_store import NotModified, ObjectNotFound, ObjectStore, StoreUnavailable
from shared.output_csv import InvalidOutputCsv
from shared.pace import Pace
from shared.published import OUTPUT, REJECTS

logger = logging.getLogger(__name__)

POLL_S = 2.0
RECONNECT_S = 1.0
# The thread works for at most a quarter of the time, so that publishes in quick succession leave
# time for requests. A turn counts for at most LONGEST_TURN_S, so the pause after a timeout of MinIO
# is about 4 s and does not grow with the timeout.
SHARE, BURST_S, LONGEST_TURN_S = 0.25, 0.1, 1.0


class Connections(NamedTuple):
    """The clients of one follower: the output bucket and Redis."""

    output: ObjectStore
    redis: "Redis"


class Follower:
    """The follower of one process.

    It opens no connection and starts no thread before `start`, so it can be created before a fork.
    `clock` returns Unix seconds.
    """

    def __init__(self, connect: Callable[[], Connections], clock: Callable[[], float] = time.time) -> None:
        self._connect, self._clock = connect, clock
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._rounds: Rounds | None = None

    @property
    def view(self) -> View:
        """The current view of this process; an empty view before `start`."""
        return self._rounds.view if self._rounds else View()

    def start(self, wait_s: float = 0.0) -> None:
        """Connect and start the thread; return after its first round.

        `wait_s` limits the wait for that round, in seconds.
        """
        connections = self._connect()
        self._rounds = rounds = Rounds(connections, self._clock)
        arguments = (rounds, _Messages(connections.redis))
        self._thread = threading.Thread(target=self._run, args=arguments, name="follower", daemon=True)
        self._thread.start()
        self._looked.wait(wait_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread and remove this process from the list of live ones.

        `timeout_s` limits the wait for the end of the thread, in seconds.
        """
        self._stop.set()
        if self._rounds and self._thread:
            with suppress(RedisError):
                self._rounds.presence.wake_all()  # wakes this process's own follower
            self._thread.join(timeout_s)

    def _run(self, rounds: "Rounds", messages: "_Messages") -> None:
        pace = Pace(SHARE, BURST_S, time.monotonic)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                rounds.run()
            except Exception:
                # The thread must survive: without it the process would serve stale rows silently.
                logger.exception("unexpected error in the follower; serving the last snapshot, retrying")
            self._looked.set()
            pace.spent(min(time.monotonic() - began, LONGEST_TURN_S))
            # Without Redis `wait` returns early, and RECONNECT_S limits the reconnection attempts.
            if not messages.wait(POLL_S):
                self._stop.wait(RECONNECT_S)
            self._stop.wait(pace.wait_s())
            # Notifications that arrived during the pause are answered by the next round.
            messages.forget()
        with suppress(RedisError):
            rounds.presence.leave()


class Rounds:
    """The work of a follower: one round reads all sources once and replaces `view`."""

    def __init__(self, connections: Connections, clock: Callable[[], float]) -> None:
        self._store, self._redis = connections
        self._clock = clock
        self.presence = Presence(connections.redis)
        self.view = View()
        self._looked = 0.0
        self._rejects_etag: str | None = None
        self._consistency = Consistency()

    def run(self) -> None:
        """Read MinIO and Redis once. An outage is recorded in the view and not raised."""
        # This process reports the start of the round, not its end: a publish during the round may
        # have been missed.
        began = self._sign()
        self._look()
        if began is not None and self.view.store_error is None:
            self._looked = began
        if began is not None:
            self._listen()

    def _show(self, **news: Unpack[News]) -> None:
        self.view = replace(self.view, **news)

    # -- MinIO -------------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        try:
            self._look_at_output()
            self._look_at_rejects()
        except (StoreUnavailable, ObjectNotFound, InvalidOutputCsv, rejects.InvalidRejectsCsv) as error:
            message = f"{error} does not exist" if isinstance(error, ObjectNotFound) else str(error)
            # Log each error once: a round runs at least every POLL_S seconds.
            if message != self.view.store_error:
                logger.warning(
                    "output.csv or rejects.csv cannot be read: %s; serving the last snapshot, retrying", message
                )
            self._show(store_error=message)
        else:
            self._show(store_error=None, looked_at=self._clock())

    def _look_at_output(self) -> None:
        table = self.view.table or EMPTY
        with suppress(NotModified):
            stored = self._store.get(OUTPUT, if_none_match=table.etag or None)
            self._show(table=table.updated(stored.body, stored.etag))

    def _look_at_rejects(self) -> None:
        with suppress(NotModified, ObjectNotFound):
            stored = self._store.get(REJECTS, if_none_match=self._rejects_etag)
            self._show(rejects=rejects.decode(stored.body))
            # Only after the decoding: an invalid file is read again in the next round.
            self._rejects_etag = stored.etag

    # -- Redis -------------------------------------------------------------------------------------------------------
    def _sign(self) -> float | None:
        try:
            return self.presence.sign(self._looked)
        except RedisError as error:
            self._lose_redis(error)
            return None

    def _listen(self) -> None:
        # Events that arrive after this moment may be missing from the figures.
        asked_at = self._clock()
        try:
            self.presence.sign(self._looked)
            figures = read_figures(self._redis)
        except RedisError as error:
            self._lose_redis(error)
            return
        now = self._clock()
        table = self.view.table
        if self.view.store_error is None:
            self._consistency.update(figures, table.etag if table else None, asked_at)
        self._show(
            figures=figures,
            heard_at=now,
            broken_since=None if figures.sound else self.view.broken_since or now,
            stuck_since=self._stuck_since(figures, now),
            consistent_as_of=self._consistency.as_of,
            redis_error=None,
        )

    def _stuck_since(self, figures: Figures, now: float) -> float | None:
        known = self.view.figures
        if not figures.waiting:
            return None
        # The same digest of the first events means that the listener has processed none of them.
        goes_on = known is None or known.heads != figures.heads
        return now if goes_on else self.view.stuck_since or now

    def _lose_redis(self, error: RedisError) -> None:
        self._consistency.redis_is_away()
        self._show(redis_error=str(error), stuck_since=None)


class _Messages:
    """A Redis subscription to publish notifications."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._pubsub: Any = None

    def wait(self, seconds: float) -> bool:
        """Wait for a notification, at most `seconds`; return False if Redis is unavailable.

        Returns immediately after a (re)connection, because a notification may have been missed.
        """
        try:
            if self._pubsub is None:
                pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                pubsub.subscribe(CHANNEL)
                # Wait for the confirmation: later notifications are then delivered.
                pubsub.get_message(timeout=1.0)
                self._pubsub = pubsub
            else:
                self._pubsub.get_message(timeout=seconds)
        except RedisError:
            self._close()
            return False
        return True

    def forget(self) -> None:
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
