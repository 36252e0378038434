"""Keeps a process's view fresh: looks at output.csv when told of a publish, and at least every two seconds.

What is served comes straight from MinIO; Redis only says when to look, and how the pipeline does.  With either away
the process goes on serving what it has.
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
SHARE, BURST_S, LONGEST_TURN_S = 0.25, 0.1, 1.0


class Connections(NamedTuple):
    """What a follower talks to."""

    output: ObjectStore
    redis: "Redis"


class Follower:
    """One process's follower.  Nothing is connected, and no thread runs, before `start`: make it before a fork."""

    def __init__(self, connect: Callable[[], Connections], clock: Callable[[], float] = time.time) -> None:
        self._connect, self._clock = connect, clock
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._rounds: Rounds | None = None

    @property
    def view(self) -> View:
        """What this process knows now."""
        return self._rounds.view if self._rounds else View()

    def start(self, wait_s: float = 0.0) -> None:
        """Begin to follow, in a thread of this process; return after its first look, or so many seconds."""
        connections = self._connect()
        self._rounds = rounds = Rounds(connections, self._clock)
        arguments = (rounds, _Messages(connections.redis))
        self._thread = threading.Thread(target=self._run, args=arguments, name="follower", daemon=True)
        self._thread.start()
        self._looked.wait(wait_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Follow no longer, and tell the other processes."""
        self._stop.set()
        if self._rounds and self._thread:
            with suppress(RedisError):
                self._rounds.presence.wake_all()  # this process's follower, above all
            self._thread.join(timeout_s)

    def _run(self, rounds: "Rounds", messages: "_Messages") -> None:
        pace = Pace(SHARE, BURST_S, time.monotonic)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                rounds.run()
            except Exception:
                # A thread that died would let the process serve old rows for ever, and calmly.
                logger.exception("could not follow what is published; trying again")
            self._looked.set()
            pace.spent(min(time.monotonic() - began, LONGEST_TURN_S))
            if not messages.wait(POLL_S):
                self._stop.wait(RECONNECT_S)
            self._stop.wait(pace.wait_s())
            messages.forget()
        with suppress(RedisError):
            rounds.presence.leave()


class Rounds:
    """One look after the other; what they found is in `view`, which is replaced at each piece of news."""

    def __init__(self, connections: Connections, clock: Callable[[], float]) -> None:
        self._store, self._redis = connections
        self._clock = clock
        self.presence = Presence(connections.redis)
        self.view = View()
        self._looked = 0.0
        self._rejects_etag: str | None = None
        self._consistency = Consistency()

    def run(self) -> None:
        """Look once at everything.  An outage is noted in the view."""
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
            message = f"there is no {error}" if isinstance(error, ObjectNotFound) else str(error)
            if message != self.view.store_error:
                logger.warning("output.csv or rejects.csv cannot be read: %s", message)
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
            self._rejects_etag = stored.etag

    # -- Redis -------------------------------------------------------------------------------------------------------
    def _sign(self) -> float | None:
        try:
            return self.presence.sign(self._looked)
        except RedisError as error:
            self._lose_redis(error)
            return None

    def _listen(self) -> None:
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
        goes_on = known is None or known.heads != figures.heads
        return now if goes_on else self.view.stuck_since or now

    def _lose_redis(self, error: RedisError) -> None:
        self._consistency.redis_is_away()
        self._show(redis_error=str(error), stuck_since=None)


class _Messages:
    """News of publishes."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._pubsub: Any = None

    def wait(self, seconds: float) -> bool:
        """Wait until there is news, at most so long; at once after a (re)connection.  False if Redis is away."""
        try:
            if self._pubsub is None:
                pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                pubsub.subscribe(CHANNEL)
                pubsub.get_message(timeout=1.0)
                self._pubsub = pubsub
            else:
                self._pubsub.get_message(timeout=seconds)
        except RedisError:
            self._close()
            return False
        return True

    def forget(self) -> None:
        """Let go of the news that came by now: one look answers them all."""
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
