"""Line diff of two versions of a sorted file: find the parts that a new version keeps. Pure.

`api.snapshot` uses it to parse only the new lines of `output.csv`. Every alignment of the files
gives a correct result, and a good one keeps more. Both files are sorted, so a merge-like walk finds
inserted, removed and changed lines anywhere. The rest costs comparisons of memory blocks.
"""

from collections.abc import Iterator
from typing import NamedTuple

_SMALLEST_BLOCK, _LARGEST_BLOCK = 64, 1 << 18
_WORTH_KEEPING = 1024
"""Minimum size in bytes of a kept part: parsing a few lines again costs less than one more part."""


class Kept(NamedTuple):
    """Whole lines that both files contain: bytes `start` to `stop` (exclusive) of the old file."""

    start: int
    stop: int


def difference(old: bytes, new: bytes, start: int) -> Iterator[Kept | bytes]:
    """Yield the new file from offset `start` on, in order, as kept parts and as new lines.

    Each new line includes its LF. In both files `start` must be the beginning of a line or the end,
    and both files must end with LF.
    """
    at_old = at_new = fresh = start
    while at_new < len(new) and at_old < len(old):
        same = _whole_lines(new, at_new, _agreeing(old, at_old, new, at_new))
        if not same:
            at_old, at_new = _step(old, at_old, new, at_new)
            continue
        # A short match between new lines is treated as new: it would split them into two parts.
        if same >= _WORTH_KEEPING or at_new == fresh:
            if fresh < at_new:
                yield new[fresh:at_new]
            yield Kept(at_old, at_old + same)
            fresh = at_new + same
        at_old, at_new = at_old + same, at_new + same
    if fresh < len(new):
        yield new[fresh:]


def _step(old: bytes, at_old: int, new: bytes, at_new: int) -> tuple[int, int]:
    """Skip two lines that differ; return the next offsets in both files.

    Both lines are skipped if they have the same user ID, else only the one that sorts first.
    """
    end_old, end_new = old.index(b"\n", at_old) + 1, new.index(b"\n", at_new) + 1
    key_old = old[at_old:end_old].partition(b",")[0]
    key_new = new[at_new:end_new].partition(b",")[0]
    return (end_old if key_old <= key_new else at_old), (end_new if key_new <= key_old else at_new)


def _whole_lines(text: bytes, start: int, length: int) -> int:
    return max(text.rfind(b"\n", start, start + length) + 1 - start, 0)


def _agreeing(old: bytes, at_old: int, new: bytes, at_new: int) -> int:
    """Return the number of bytes that are equal from these offsets on."""
    # Blocks double in size: short matches stay cheap, and long ones need few comparisons.
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
