"""Make requests concurrently, with a time limit and retries for unreadable objects."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from shared.object_store import ObjectUnreadable, StoreUnavailable
from worker.source.unreadable import RETRY_PAUSES_S

MAX_READ_S = 20.0
"""Seconds after which a read starts no further request. Users not read by then stay dirty."""
_READ_TIMEOUT_REASON = (
    f"the read took longer than {MAX_READ_S:.0f} s; unread users stay dirty and are retried"
)

_T = TypeVar("_T")


class ParallelCalls:
    """Makes calls on the threads of `pool`, at most `max_parallel` at the same time."""

    def __init__(self, pool: Executor, max_parallel: int) -> None:
        self._pool = pool
        self._max_parallel = max_parallel

    def run_parallel(
        self, calls: Sequence[Callable[[], _T]], until: float
    ) -> list[_T | StoreUnavailable]:
        """Make these calls concurrently and return their answers in order, see `run_in_order`.

        Each thread makes an equal share of the calls: a pool task per call would cost more.
        """
        thread_count = min(len(calls), self._max_parallel)
        chunks = [calls[offset::thread_count] for offset in range(thread_count)]
        answers: list[Any] = [None] * len(calls)
        for offset, chunk in enumerate(
            self._pool.map(run_in_order, chunks, [until] * thread_count)
        ):
            answers[offset::thread_count] = chunk
        return answers

    def run_with_retries(
        self,
        calls: Sequence[Callable[[], _T]],
        last_calls: Sequence[Callable[[], _T]],
        until: float,
    ) -> list[_T | StoreUnavailable]:
        """Make these calls like `run_parallel`, with two retries for objects that cannot be read.

        One pause (`RETRY_PAUSES_S`) precedes each retry of all of them. The second retry makes the
        call of `last_calls` with the same index.
        """
        answers = self.run_parallel(calls, until)
        for pause, retried_calls in zip(RETRY_PAUSES_S, (calls, last_calls), strict=True):
            unreadable = [
                n for n, answer in enumerate(answers) if isinstance(answer, ObjectUnreadable)
            ]
            if unreadable:
                time.sleep(pause)
                retried_answers = self.run_parallel([retried_calls[n] for n in unreadable], until)
                for number, answer in zip(unreadable, retried_answers, strict=True):
                    answers[number] = answer
        return answers


def run_in_order(calls: Sequence[Callable[[], _T]], until: float) -> list[_T | StoreUnavailable]:
    """Make these calls one after the other and return their answers in order.

    No call starts after the time `until`, see `check_time`. Every error is returned as a
    `StoreUnavailable`, which is retried.
    """
    answers: list[_T | StoreUnavailable] = []
    for call in calls:
        try:
            check_time(until)
            answers.append(call())
        except StoreUnavailable as error:
            answers.append(error)
        except BaseException as error:  # noqa: BLE001  must not fail the other users
            answers.append(StoreUnavailable(f"a read failed with {type(error).__name__}; retrying"))
    return answers


def check_time(until: float) -> None:
    """Raise `StoreUnavailable` after the time `until`, in seconds of `time.monotonic`."""
    if time.monotonic() > until:
        raise StoreUnavailable(_READ_TIMEOUT_REASON)
