"""The retries and the reject reason for objects that exist but cannot be read.

The server's refusal concerns one object, so it must not stop anything else. A read makes three
attempts, with one second of pauses in all. Then the object becomes a reject, which holds the row,
and each sweep requests another read.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.formats.records import UNREADABLE_REASON
from shared.object_store import ObjectInfo, ObjectStore, ObjectUnreadable

RETRY_PAUSES_S = (0.2, 0.8)
"""Seconds before the second attempt and before the third, which is the last."""

_T = TypeVar("_T")


def format_unreadable_reason(error: ObjectUnreadable) -> str:
    """Return the reason of the reject."""
    return f"{UNREADABLE_REASON}: {error.reason}"


def is_unreadable_reason(reason: str) -> bool:
    """Return whether a reject has a reason of `format_unreadable_reason`."""
    return reason.startswith(UNREADABLE_REASON)


def find_object(source: ObjectStore, key: str) -> ObjectInfo | None:
    """Return the metadata of an object, which need not be readable; None if it does not exist."""
    try:
        return source.get_info(key)
    except ObjectUnreadable:
        return source.get_list_entry(key)


def retry_unreadable(read: Callable[[], _T]) -> _T:
    """Call `read`, with retries for an unreadable object.

    Raises what the last attempt raises.
    """
    for pause in RETRY_PAUSES_S:
        try:
            return read()
        except ObjectUnreadable:
            time.sleep(pause)
    return read()
