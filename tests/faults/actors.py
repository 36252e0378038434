"""Real code that pauses before each request, so that a test controls every interleaving.

An actor is one process of Rowdrop that does one piece of work in its own thread. Only one thread
runs at a time, and the test's own requests never pause. A killed actor performs no further request.
Requests in its `except` and `finally` blocks are not sent either, as after kill -9.
"""

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TypeVar

REQUEST_TIMEOUT_S = 60
"""Timeout in seconds: an actor that reaches no further request in this time hangs."""

_Response = TypeVar("_Response")
_thread_state = threading.local()


class RequestFate(Enum):
    """What happens to the request at which an actor is paused."""

    DONE = "done"
    KILLED = "the client is killed before it"
    REFUSED = "not done, and the client gets an error"
    RESPONSE_LOST = "done, but the client gets an error"
    DUPLICATED = "done twice, as by a client that retries"
    LATE = "the client gets an error, and it is done later"


class ProcessKilled(BaseException):
    """Raised in the thread of an actor that is killed."""


class Actor:
    """One piece of work in its own thread, which pauses before each request.

    When the constructor returns, the actor is paused before its first request, or has ended.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.error = None
        self.pending_request = ""
        self.is_killed = False
        self.token = ""
        self.lost_lease_count = 0
        self.lease_expires_at = 0.0
        self.first_seen_versions = {}
        self.lost_events = {}
        self._work = work
        self._fates: SimpleQueue[RequestFate] = SimpleQueue()
        self._requests: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._wait()

    error: BaseException | None
    pending_request: str
    """The request before which the actor is paused. Empty if it has ended."""
    token: str
    lost_lease_count: int
    lease_expires_at: float
    first_seen_versions: dict[str, int]
    """Fields of a publisher, from `token` on. `tests/faults/monitor.py` sets them."""
    lost_events: Mapping[str, int]
    """Of a sweep: users with an event that was lost before its LIST. Set there as well."""

    @property
    def is_finished(self) -> bool:
        """Return whether the work has ended, in any way."""
        return not self.pending_request

    def step(self, fate: RequestFate = RequestFate.DONE) -> None:
        """Perform the current request, and run to the next one."""
        if not self.is_finished:
            self._fates.put(fate)
            self._wait()

    def kill(self) -> None:
        """Kill the actor before its current request, as kill -9 does."""
        self.step(RequestFate.KILLED)

    def _wait(self) -> None:
        try:
            self.pending_request = self._requests.get(timeout=REQUEST_TIMEOUT_S) or ""
        except Empty:
            raise AssertionError(
                f"{self.name}: expected its next request or its end, "
                f"found that it hangs after {self.pending_request!r}"
            ) from None
        if self.is_finished:
            self._thread.join()

    def _run(self) -> None:
        _thread_state.actor = self
        try:
            self._work()
        except ProcessKilled:
            pass
        except BaseException as error:  # noqa: BLE001  `Processes` raises it again in the test
            self.error = error
        self._requests.put(None)

    def wait_for_fate(self, request: str) -> RequestFate:
        """Pause before this request until the test decides, and return the decision.

        Runs in the actor's thread. Raises `ProcessKilled`.
        """
        if not self.is_killed:
            self._requests.put(request)
            fate = self._fates.get()
            if fate is not RequestFate.KILLED:
                return fate
            self.is_killed = True
        raise ProcessKilled


def get_current_actor() -> Actor | None:
    """Return the actor that owns this thread, or None in the test itself."""
    return getattr(_thread_state, "actor", None)


def perform_request(
    request: str,
    operation: Callable[[], _Response],
    failure: Callable[[], Exception],
    defer: Callable[[Callable[[], object]], None] | None = None,
) -> _Response:
    """Perform `operation` as the test decides, and return its result.

    `failure` makes the error that the client gets. `defer` receives an operation that the server
    performs late. Without `defer`, the operation is performed now and only its result is lost.
    """
    actor = get_current_actor()
    fate = actor.wait_for_fate(request) if actor else RequestFate.DONE
    match fate:
        case RequestFate.REFUSED:
            raise failure()
        case RequestFate.LATE if defer:
            defer(operation)
            raise failure()
        case RequestFate.RESPONSE_LOST | RequestFate.LATE:
            operation()
            raise failure()
        case RequestFate.DUPLICATED:
            operation()
    return operation()
