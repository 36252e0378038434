"""What an edited file of lines has in common with the one before.  Pure.

Any alignment gives a right answer; a good one keeps more.  Both files are sorted, so walking them like a merge finds
inserted, removed and changed lines wherever they are, at the cost of comparing the rest by blocks of memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

_SMALLEST_BLOCK, _LARGEST_BLOCK = 64, 1 << 18
_WORTH_KEEPING = 1024
"""Bytes; to read a few lines again is cheaper than to handle one more part."""


class Kept(NamedTuple):
    """Whole lines that both files have: the bytes from `start` to `stop` of the old one."""

    start: int
    stop: int


def difference(old: bytes, new: bytes, start: int) -> Iterator[Kept | bytes]:
    """The new file from `start` on, in order: parts of the old one, and lines (each with its LF) that are new.

    In both files a line begins, or the end is, at `start`; both end with LF.
    """
    at_old = at_new = fresh = start
    while at_new < len(new) and at_old < len(old):
        same = _whole_lines(new, at_new, _agreeing(old, at_old, new, at_new))
        if not same:
            at_old, at_new = _step(old, at_old, new, at_new)
            continue
        if same >= _WORTH_KEEPING or at_new == fresh:
            if fresh < at_new:
                yield new[fresh:at_new]
            yield Kept(at_old, at_old + same)
            fresh = at_new + same
        at_old, at_new = at_old + same, at_new + same
    if fresh < len(new):
        yield new[fresh:]


def _step(old: bytes, at_old: int, new: bytes, at_new: int) -> tuple[int, int]:
    """Go past two lines that differ: both if they are of one user, else the one that sorts first."""
    end_old, end_new = old.index(b"\n", at_old) + 1, new.index(b"\n", at_new) + 1
    key_old = old[at_old:end_old].partition(b",")[0]
    key_new = new[at_new:end_new].partition(b",")[0]
    return (end_old if key_old <= key_new else at_old), (end_new if key_new <= key_old else at_new)


def _whole_lines(text: bytes, start: int, length: int) -> int:
    return max(text.rfind(b"\n", start, start + length) + 1 - start, 0)


def _agreeing(old: bytes, at_old: int, new: bytes, at_new: int) -> int:
    """How many bytes are the same from there on."""
    most, block, same = min(len(old) - at_old, len(new) - at_new), _SMALLEST_BLOCK, 0
    while same < most:
        block = min(block, most - same)
        if not _equal(old, at_old + same, new, at_new + same, block):
            return same + _first_difference(old, at_old + same, new, at_new + same, block)
        same += block
        block = min(2 * block, _LARGEST_BLOCK)
    return most


def _first_difference(old: bytes, at_old: int, new: bytes, at_new: int, length: int) -> int:
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if _equal(old, at_old + low, new, at_new + low, middle - low):
            low = middle
        else:
            high = middle
    return low


def _equal(old: bytes, at_old: int, new: bytes, at_new: int, length: int) -> bool:
    return old[at_old : at_old + length] == new[at_new : at_new + length]
