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

PATIENCE_S = 60
"""Timeout in seconds: an actor that reaches no further request in this time hangs."""

_Answer = TypeVar("_Answer")
_here = threading.local()


class Verdict(Enum):
    """What happens to the request at which an actor is paused."""

    DONE = "done"
    KILLED = "the client is killed before it"
    REFUSED = "not done, and the client gets an error"
    ANSWER_LOST = "done, but the client gets an error"
    TWICE = "done twice, as by a client that retries"
    LATE = "the client gets an error, and it is done later"


class Killed(BaseException):
    """Raised in the thread of an actor that is killed."""


class Actor:
    """One piece of work in its own thread, which pauses before each request.

    When the constructor returns, the actor is paused before its first request, or has ended.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name, self.error, self.at, self.killed = name, None, "", False
        self.token, self.leases_lost, self.lease_ends, self.since, self.unheard = "", 0, 0.0, {}, {}
        self._work = work
        self._verdicts: SimpleQueue[Verdict] = SimpleQueue()
        self._stops: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._wait()

    error: BaseException | None
    at: str
    """The request before which the actor is paused. Empty if it has ended."""
    token: str
    leases_lost: int
    lease_ends: float
    since: dict[str, int]
    """Fields of a publisher, from `token` on. `tests/faults/monitor.py` sets them."""
    unheard: Mapping[str, int]
    """Of a sweep: users with an event that was lost before its LIST. Set there as well."""

    @property
    def over(self) -> bool:
        """Return whether the work has ended, in any way."""
        return not self.at

    def step(self, verdict: Verdict = Verdict.DONE) -> None:
        """Perform the current request, and run to the next one."""
        if not self.over:
            self._verdicts.put(verdict)
            self._wait()

    def kill(self) -> None:
        """Kill the actor before its current request, as kill -9 does."""
        self.step(Verdict.KILLED)

    def _wait(self) -> None:
        try:
            self.at = self._stops.get(timeout=PATIENCE_S) or ""
        except Empty:
            raise AssertionError(
                f"{self.name}: expected its next request or its end, found that it hangs after {self.at!r}"
            ) from None
        if self.over:
            self._thread.join()

    def _run(self) -> None:
        _here.actor = self
        try:
            self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  `Processes` raises it again in the test
            self.error = error
        self._stops.put(None)

    def stop_at(self, request: str) -> Verdict:
        """Pause before this request until the test decides, and return the decision.

        Runs in the actor's thread. Raises `Killed`.
        """
        if not self.killed:
            self._stops.put(request)
            verdict = self._verdicts.get()
            if verdict is not Verdict.KILLED:
                return verdict
            self.killed = True
        raise Killed


def current() -> Actor | None:
    """Return the actor that owns this thread, or None in the test itself."""
    return getattr(_here, "actor", None)


def perform(
    request: str,
    operation: Callable[[], _Answer],
    failure: Callable[[], Exception],
    later: Callable[[Callable[[], object]], None] | None = None,
) -> _Answer:
    """Perform `operation` as the test decides, and return its result.

    `failure` makes the error that the client gets. `later` receives an operation that the server
    performs late. Without `later`, the operation is performed now and only its result is lost.
    """
    actor = current()
    verdict = actor.stop_at(request) if actor else Verdict.DONE
    match verdict:
        case Verdict.REFUSED:
            raise failure()
        case Verdict.LATE if later:
            later(operation)
            raise failure()
        case Verdict.ANSWER_LOST | Verdict.LATE:
            operation()
            raise failure()
        case Verdict.TWICE:
            operation()
    return operation()
