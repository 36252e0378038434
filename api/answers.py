"""Per-snapshot caches. They are dropped together with the snapshot."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

KEPT_ANSWERS_BYTES = 32 << 20
"""Size in bytes of the answer cache of one snapshot."""
MOST_QUESTIONS = 512
"""Number of parsed requests that one snapshot caches."""

_Made = TypeVar("_Made")


class Prepared:
    """Values that are computed once, on first use, and never evicted.

    Thread-safe: one thread computes a value, and concurrent callers with the same key wait for it.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return the value of this key; compute and cache it on first use."""
        # No lock for a cached value: only the first computation of each key takes its lock.
        if key not in self._made:
            # `setdefault` is atomic, so concurrent callers get the same lock.
            with self._locks.setdefault(key, Lock()):
                if key not in self._made:
                    self._made[key] = make()
        made: _Made = self._made[key]
        return made

    def there(self, key: Hashable) -> Any | None:  # noqa: ANN401
        """Return the value of this key, or None if it has not been computed."""
        return self._made.get(key)


class Answers:
    """An LRU cache that is bounded by the total size of its entries. Thread-safe."""

    def __init__(self, most_bytes: int = KEPT_ANSWERS_BYTES) -> None:
        self._most = self._left = most_bytes
        self._lock, self._kept = Lock(), OrderedDict[Hashable, tuple[Any, int]]()

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401
        """Return the cached value of this key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def keep(self, key: Hashable, answer: Any, size: int | None = None) -> None:  # noqa: ANN401
        """Cache an answer, and evict the least recently used ones to make room.

        `size` counts against the limit of the cache. It is in bytes, and by default the length of
        the answer. A cache that is limited by the number of entries uses a size of 1. An answer
        that is larger than the whole cache, or cached already, is ignored.
        """
        size = len(answer) if size is None else size
        with self._lock:
            if key in self._kept or size > self._most:
                return
            self._kept[key] = answer, size
            self._left -= size
            while self._left < 0:
                self._left += self._kept.popitem(last=False)[1][1]

    def made(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the cached answer of this key; compute and cache it if it is missing."""
        # Not locked: concurrent callers may compute the same answer, and the first one is cached.
        answer: bytes | None = self.get(key)
        if answer is None:
            answer = make()
            self.keep(key, answer)
        return answer
