"""Objects that are there and cannot be read: how often that is tried, and what is said of it.

The server's refusal concerns one object, so it must stop nothing else.  A few attempts, a second in all, are made by
the reading itself; a reject follows, which holds the row.  Each sweep has it tried again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.object_store import ObjectUnreadable
from shared.records import UNREADABLE

PAUSES_S = (0.2, 0.8)
"""Seconds before the second attempt, and the third, which is the last."""

_Answer = TypeVar("_Answer")


def reason_of(error: ObjectUnreadable) -> str:
    """The reason of the reject."""
    return f"{UNREADABLE}: {error.why}"


def is_unreadable(reason: str) -> bool:
    """Whether this is such a reason."""
    return reason.startswith(UNREADABLE)


def try_again(read: Callable[[], _Answer]) -> _Answer:
    """Read, and again if need be.  Raises what the last attempt raises."""
    for pause in PAUSES_S:
        try:
            return read()
        except ObjectUnreadable:
            time.sleep(pause)
    return read()
