"""Real code that stops before each of its requests, so that a test decides what happens in between, and at it.

An actor is one process of Rowdrop at one piece of work, in a thread of its own; only one thread runs at a time, and the
test's own requests never stop.  To be killed is to do no request any more: what `except` and `finally` would still say
to a server is not said, as after kill -9.
"""

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TypeVar

PATIENCE_S = 60
"""An actor that has not come to its next request by then hangs."""

_Answer = TypeVar("_Answer")
_here = threading.local()


class Verdict(Enum):
    """What becomes of the request at which an actor stands."""

    DONE = "done"
    KILLED = "killed before it"
    REFUSED = "not done, and the client is told of a failure"
    ANSWER_LOST = "done, but the client is told of a failure"
    TWICE = "done twice, as by a client that tries again"
    LATE = "the client is told of a failure, and it is done later"


class Killed(BaseException):
    """This process is gone."""


class Actor:
    """`work` under the name of `name`; it stands before its first request, or is over, when this returns."""

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
    """The request at which it stands."""
    token: str
    leases_lost: int
    lease_ends: float
    since: dict[str, int]
    """Of a publisher, kept by `tests/faults/monitor.py`."""
    unheard: Mapping[str, int]
    """Of a sweep, likewise: whose events were lost before its LIST."""

    @property
    def over(self) -> bool:
        """Whether the work has come to its end, by whatever way."""
        return not self.at

    def step(self, verdict: Verdict = Verdict.DONE) -> None:
        """Do the request at which it stands, and go on to the next."""
        if not self.over:
            self._verdicts.put(verdict)
            self._wait()

    def kill(self) -> None:
        """kill -9, before the request at which it stands."""
        self.step(Verdict.KILLED)

    def _wait(self) -> None:
        try:
            self.at = self._stops.get(timeout=PATIENCE_S) or ""
        except Empty:
            raise AssertionError(f"{self.name} hangs after {self.at}") from None
        if self.over:
            self._thread.join()

    def _run(self) -> None:
        _here.actor = self
        try:
            self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.error = error
        self._stops.put(None)

    def stop_at(self, request: str) -> Verdict:
        """Called in its thread: stand before this request until the test says what becomes of it."""
        if not self.killed:
            self._stops.put(request)
            verdict = self._verdicts.get()
            if verdict is not Verdict.KILLED:
                return verdict
            self.killed = True
        raise Killed


def current() -> Actor | None:
    """The actor in whose thread this is called; None in the test itself."""
    return getattr(_here, "actor", None)


def perform(
    request: str,
    operation: Callable[[], _Answer],
    failure: Callable[[], Exception],
    later: Callable[[Callable[[], object]], None] | None = None,
) -> _Answer:
    """Do `operation` as the test decides.  What is to be done `later` is handed there, if the server might do that."""
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
