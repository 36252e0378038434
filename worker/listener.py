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

from shared.duty_cycle import DutyCycle
from shared.formats.events import InvalidEvent, decode_entry
from shared.formats.source_keys import (
    PROBE_PREFIX,
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    make_bundle_id,
    parse_bundle_id,
)
from shared.scripts import CHUNK_SIZE
from shared.task_queue import EVENTS_QUEUE, TaskQueue
from worker.heartbeat import Heartbeat
from worker.services.clients import ServerClients
from worker.services.container import Services, freeze_gc
from worker.source.ignored_keys import IgnoredKeys
from worker.state.event_inbox import DecodedEntry, EventInbox

logger = logging.getLogger(__name__)

EVENT_TIMEOUT_S = 1.0
MAX_QUEUED_MESSAGES = 2
"""With this many messages in the queue, workers are busy, and events are collected further."""
COLLECT_POLL_S = 0.02
COLLECT_S = 0.2
BURST_BATCHES = 10
"""In a burst, each batch after the first `BURST_BATCHES` is collected for `COLLECT_S` seconds."""
SINGLE_DROP_QUIET_S = 0.01
"""After this many seconds without an event, the next event is handled as a single drop."""
MAX_COLLECT_S = 1.0
"""Maximum time in seconds that events are collected before a batch."""


class Listener:
    """Turns MinIO's events into dirty users and messages. `clock` returns Unix seconds."""

    def __init__(
        self,
        inbox: EventInbox,
        tasks: TaskQueue,
        ignored_keys: IgnoredKeys,
        source_bucket: str,
        clock: Callable[[], float],
    ) -> None:
        self._inbox = inbox
        self._tasks = tasks
        self._ignored_keys = ignored_keys
        self._source_bucket = source_bucket
        self._clock = clock
        self._batch_cycle = DutyCycle(1.0, BURST_BATCHES * COLLECT_S, time.monotonic, COLLECT_S)
        self._peeked_at = 0.0
        self._has_more = False

    def run_forever(self, heartbeat: Heartbeat) -> None:
        """Process events until the process ends; retry every second while Redis is unavailable."""
        while True:
            try:
                self.run_once(EVENT_TIMEOUT_S)
                heartbeat.beat()
            except (RedisError, OperationalError) as error:
                logger.warning("cannot process events, retrying in 1 s: %s", error)
                time.sleep(1.0)

    def run_once(self, timeout_s: float) -> int:
        """Wait up to `timeout_s` seconds for an event, then process one batch.

        Returns the number of marked users, isolated ones not included.
        """
        started_at = time.monotonic()
        first = None if self._has_more else self._inbox.wait_for_event(timeout_s)
        now = time.monotonic()
        if (
            first
            and now - started_at > SINGLE_DROP_QUIET_S
            and now - self._peeked_at < EVENT_TIMEOUT_S
        ):
            # A single drop does not wait for a batch. Concurrent events follow in the next one.
            entries = [first]
        else:
            entries = self._collect_events()
            self._peeked_at = now
            self._has_more = len(entries) == CHUNK_SIZE
        marked = self._mark_and_pop(entries)
        user_ids = [user_id for user_id in marked if parse_bundle_id(user_id) is None]
        for start in range(0, len(user_ids), CHUNK_SIZE):
            self._tasks.refresh(user_ids[start : start + CHUNK_SIZE])
        for key in filter(None, map(parse_bundle_id, marked)):
            self._tasks.unpack(key)
        return len(marked)

    def _collect_events(self) -> list[bytes]:
        # In a burst, and while workers are busy, events stay in their list for a while. Batches get
        # fewer and larger, and a user is read once if its CSV and image arrive together. The time
        # is bounded, so that dead workers cannot delay the marks.
        started_at = time.monotonic()
        while time.monotonic() - started_at < MAX_COLLECT_S:
            event_count, message_count = self._inbox.measure_lengths(EVENTS_QUEUE)
            if event_count >= CHUNK_SIZE or (
                message_count < MAX_QUEUED_MESSAGES and not self._batch_cycle.compute_wait_s()
            ):
                break
            time.sleep(COLLECT_POLL_S)
        self._batch_cycle.charge(COLLECT_S)
        return self._inbox.peek(CHUNK_SIZE)

    def _mark_and_pop(self, raw_entries: Sequence[bytes]) -> list[str]:
        if not raw_entries:
            return []
        entries = [self._decode_entry(raw) for raw in raw_entries]
        return self._inbox.mark_and_pop(entries, self._clock())

    def _decode_entry(self, raw: bytes) -> DecodedEntry:
        try:
            events = decode_entry(raw)
        except InvalidEvent as error:
            logger.warning(
                "an event cannot be decoded and becomes a dead letter, see /errors: %s", error
            )
            return DecodedEntry(raw, (), str(error))
        user_ids = []
        for event in events:
            if event.bucket != self._source_bucket:
                continue
            if event.key.startswith(PROBE_PREFIX):
                self._inbox.record_probe(event.key)
                continue
            match classify_key(event.key):
                case UserFile(user_id, _):
                    user_ids.append(user_id)
                case Bundle(key):
                    user_ids.append(make_bundle_id(key))
                case IgnoredFile(reason):
                    self._ignored_keys.record_event(event.key, reason, event.name, self._clock())
        return DecodedEntry(raw, user_ids)


def main() -> None:
    """Run the listener and the watchdog on the servers that the environment configures."""
    services = Services(ServerClients.from_environment())
    threading.Thread(target=services.watchdog.run_forever, name="watchdog", daemon=True).start()
    freeze_gc()
    listener = Listener(
        services.state.inbox,
        services.clients.tasks,
        services.ignored_keys,
        services.clients.settings.source_bucket,
        time.time,
    )
    listener.run_forever(Heartbeat(services.clients.settings.progress_file))


if __name__ == "__main__":
    main()
