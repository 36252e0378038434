"""The listener process (`python -m worker.listener`): turns MinIO's events into dirty users.

It peeks a batch of the event inbox and decodes it. Then it marks the users and pops exactly the
peeked entries in one atomic step, and enqueues the users. Delivery is at-least-once: a kill at any
point repeats work and loses none, and several listeners may run concurrently.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.keys import Bundle, Ignored, UserFile, bundle_id, bundle_key, classify
from shared.pace import Pace
from shared.task_queue import EVENTS_QUEUE, TaskQueue
from worker.backlog import CHUNK, FAST, SAFE, Backlog, Notice
from worker.events import InvalidEvent, decode
from worker.evidence import Watch
from worker.ignored import IgnoredKeys
from worker.init import PROBE_PREFIX
from worker.progress import Progress
from worker.wiring import Wiring

logger = logging.getLogger(__name__)

IDLE_S = 1.0
MOST_MESSAGES_AHEAD = 2
"""With this many messages in the queue, workers are busy, and events are collected further."""
LINGER_S = 0.02
GATHER_S, QUICK_BATCHES = 0.2, 10
"""In a burst, events are collected for `GATHER_S` seconds a batch after `QUICK_BATCHES` batches."""
QUIET_S = 0.01
"""After this many seconds without an event, the next event is handled as a single drop."""
MOST_LINGER_S = 1.0
"""Maximum time in seconds that events are collected before a batch."""


class Listener:
    """Turns MinIO's events into dirty users and messages. `clock` returns Unix seconds."""

    def __init__(
        self, backlog: Backlog, tasks: TaskQueue, ignored: IgnoredKeys, source_bucket: str, clock: Callable[[], float]
    ) -> None:
        self._backlog, self._tasks, self._ignored = backlog, tasks, ignored
        self._bucket, self._clock = source_bucket, clock
        self._batches = Pace(1.0, QUICK_BATCHES * GATHER_S, time.monotonic, GATHER_S)
        self._peeked = 0.0
        self._more = False

    def run_forever(self, progress: Progress) -> None:
        """Process events until the process ends; retry every second while Redis is unavailable."""
        while True:
            try:
                self.run_once(IDLE_S)
                progress.made()
            except (RedisError, OperationalError) as error:
                logger.warning("cannot process events, retrying in 1 s: %s", error)
                time.sleep(1.0)

    def run_once(self, wait_s: float) -> int:
        """Wait up to `wait_s` seconds for an event, then process one batch.

        Returns the number of marked users, isolated ones not included.
        """
        began = time.monotonic()
        first = None if self._more else self._backlog.wait_for_event(wait_s)
        now = time.monotonic()
        if first and now - began > QUIET_S and now - self._peeked < IDLE_S:
            # A single drop does not wait for a batch. Concurrent events follow in the next one.
            fast, safe = [first], list[bytes]()
        else:
            fast, safe = self._peek()
            self._peeked = now
            self._more = CHUNK in {len(fast), len(safe)}
        marked = list(dict.fromkeys(self._note(FAST, fast) + self._note(SAFE, safe)))
        users = [user_id for user_id in marked if bundle_key(user_id) is None]
        for start in range(0, len(users), CHUNK):
            self._tasks.refresh(users[start : start + CHUNK])
        for key in filter(None, map(bundle_key, marked)):
            self._tasks.unpack(key)
        return len(marked)

    def _peek(self) -> tuple[list[bytes], list[bytes]]:
        # In a burst, and while workers are busy, events stay in their list for a while. Batches get
        # fewer and larger, and a user is read once if its CSV and image arrive together. The time
        # is bounded, so that dead workers cannot delay the marks.
        began = time.monotonic()
        while time.monotonic() - began < MOST_LINGER_S:
            waiting, ahead = self._backlog.waiting(FAST, EVENTS_QUEUE)
            if waiting >= CHUNK or (ahead < MOST_MESSAGES_AHEAD and not self._batches.wait_s()):
                break
            time.sleep(LINGER_S)
        self._batches.spent(GATHER_S)
        return self._backlog.peek(CHUNK)

    def _note(self, source: str, raws: Sequence[bytes]) -> list[str]:
        if not raws:
            return []
        return self._backlog.note_events(source, [self._notice(raw) for raw in raws], self._clock())

    def _notice(self, raw: bytes) -> Notice:
        try:
            events = decode(raw)
        except InvalidEvent as error:
            logger.warning("an event cannot be decoded and becomes a dead letter, see /errors: %s", error)
            return Notice(raw, (), str(error))
        users = []
        for event in events:
            if event.bucket != self._bucket:
                continue
            if event.key.startswith(PROBE_PREFIX):
                self._backlog.note_probe(event.key)
                continue
            match classify(event.key):
                case UserFile(user_id, _):
                    users.append(user_id)
                case Bundle(key):
                    users.append(bundle_id(key))
                case Ignored(reason):
                    self._ignored.noticed(event.key, reason, event.name, self._clock())
        return Notice(raw, users)


def main() -> None:
    """Run the listener and the watchdog on the servers that the environment configures."""
    wiring = Wiring.from_environment()
    watch = Watch(
        wiring.backlog_of_its_own(),
        wiring.output,
        wiring.tasks,
        wiring.rebuilds,
        wiring.server_figures,
        wiring.settings,
        notifications=wiring.notifications,
    )
    threading.Thread(target=watch.run_forever, name="watch", daemon=True).start()
    wiring.settle()
    listener = Listener(wiring.backlog, wiring.tasks, wiring.ignored, wiring.settings.source_bucket, time.time)
    listener.run_forever(Progress(wiring.settings.progress_file))


if __name__ == "__main__":
    main()
