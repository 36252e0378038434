"""Line diff of two versions of a sorted file: find the parts that a new version keeps. Pure.

`api.snapshot.table` uses it to parse only the new lines of `output.csv`. Every alignment of the
files gives a correct result, and a good one keeps more. Both files are sorted, so a merge-like walk
finds inserted, removed and changed lines anywhere. The rest costs comparisons of memory blocks.
"""

from collections.abc import Iterator
from typing import NamedTuple

# The sizes of the blocks that one comparison covers.
_MIN_BLOCK_BYTES = 64
_MAX_BLOCK_BYTES = 1 << 18

_MIN_UNCHANGED_BYTES = 1024
"""Minimum size in bytes of a kept part: parsing a few lines again costs less than one more part."""


class UnchangedRange(NamedTuple):
    """Whole lines that both files contain: bytes `start` to `stop` (exclusive) of the old file."""

    start: int
    stop: int


def diff_lines(old: bytes, new: bytes, start: int) -> Iterator[UnchangedRange | bytes]:
    """Yield the new file from offset `start` on, in order, as kept parts and as new lines.

    Each new line includes its LF. In both files `start` must be the beginning of a line or the end,
    and both files must end with LF.
    """
    old_position = start
    new_position = start
    changed_start = start
    while new_position < len(new) and old_position < len(old):
        common_bytes = _count_common_bytes(old, old_position, new, new_position)
        common = _trim_to_whole_lines(new, new_position, common_bytes)
        if not common:
            old_position, new_position = _skip_differing_lines(old, old_position, new, new_position)
            continue
        # A short match between new lines is treated as new: it would split them into two parts.
        if common >= _MIN_UNCHANGED_BYTES or new_position == changed_start:
            if changed_start < new_position:
                yield new[changed_start:new_position]
            yield UnchangedRange(old_position, old_position + common)
            changed_start = new_position + common
        old_position += common
        new_position += common
    if changed_start < len(new):
        yield new[changed_start:]


def _skip_differing_lines(
    old: bytes, old_position: int, new: bytes, new_position: int
) -> tuple[int, int]:
    """Skip two lines that differ; return the next offsets in both files.

    Both lines are skipped if they have the same user ID, else only the one that sorts first.
    """
    old_end = old.index(b"\n", old_position) + 1
    new_end = new.index(b"\n", new_position) + 1
    old_user_id = old[old_position:old_end].partition(b",")[0]
    new_user_id = new[new_position:new_end].partition(b",")[0]
    if old_user_id < new_user_id:
        return old_end, new_position
    if old_user_id > new_user_id:
        return old_position, new_end
    return old_end, new_end


def _trim_to_whole_lines(text: bytes, start: int, length: int) -> int:
    return max(text.rfind(b"\n", start, start + length) + 1 - start, 0)


def _count_common_bytes(old: bytes, old_position: int, new: bytes, new_position: int) -> int:
    """Return the number of bytes that are equal from these offsets on."""
    # Blocks double in size: short matches stay cheap, and long ones need few comparisons.
    limit = min(len(old) - old_position, len(new) - new_position)
    length = _MIN_BLOCK_BYTES
    common = 0
    while common < limit:
        length = min(length, limit - common)
        if not _are_equal(old, old_position + common, new, new_position + common, length):
            return common + _find_first_difference(
                old, old_position + common, new, new_position + common, length
            )
        common += length
        length = min(2 * length, _MAX_BLOCK_BYTES)
    return limit


def _find_first_difference(
    old: bytes, old_position: int, new: bytes, new_position: int, length: int
) -> int:
    low = 0
    high = length
    while high - low > 1:
        middle = (low + high) // 2
        if _are_equal(old, old_position + low, new, new_position + low, middle - low):
            low = middle
        else:
            high = middle
    return low


def _are_equal(old: bytes, old_position: int, new: bytes, new_position: int, length: int) -> bool:
    return old[old_position : old_position + length] == new[new_position : new_position + length]
