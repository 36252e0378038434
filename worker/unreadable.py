"""The retries and the reject reason for objects that exist but cannot be read.

The server's refusal concerns one object, so it must not stop anything else. A read makes three
attempts, with one second of pauses in all. Then the object becomes a reject, which holds the row,
and each sweep requests another read.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.object_store import ObjectUnreadable
from shared.records import UNREADABLE

PAUSES_S = (0.2, 0.8)
"""Seconds before the second attempt and before the third, which is the last."""

_Answer = TypeVar("_Answer")


def reason_of(error: ObjectUnreadable) -> str:
    """Return the reason of the reject."""
    return f"{UNREADABLE}: {error.why}"


def is_unreadable(reason: str) -> bool:
    """Return whether a reject has a reason of `reason_of`."""
    return reason.startswith(UNREADABLE)


def try_again(read: Callable[[], _Answer]) -> _Answer:
    """Call `read`, with retries for an unreadable object.

    Raises what the last attempt raises.
    """
    for pause in PAUSES_S:
        try:
            return read()
        except ObjectUnreadable:
            time.sleep(pause)
    return read()
