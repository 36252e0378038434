"""Per-snapshot caches. They are dropped together with the snapshot."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Any, TypeVar

MAX_CACHE_BYTES = 32 << 20
"""Size in bytes of the LRU cache of one snapshot."""

_Value = TypeVar("_Value")


class OnceCache:
    """Values that are computed once, on first use, and never evicted.

    Thread-safe: one thread computes a value, and concurrent callers with the same key wait for it.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401
        """Return the value of this key, or None if it is not computed yet."""
        return self._results.get(key)

    def get_or_compute(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Return the value of this key; compute and cache it on first use."""
        # No lock for a cached value: only the first computation of each key takes its lock.
        if key not in self._results:
            # `setdefault` is atomic, so concurrent callers get the same lock.
            with self._locks.setdefault(key, Lock()):
                if key not in self._results:
                    self._results[key] = compute()
        value: _Value = self._results[key]
        return value


class LruCache:
    """An LRU cache that is bounded by the total weight of its entries. Thread-safe."""

    def __init__(self, max_weight: int = MAX_CACHE_BYTES) -> None:
        self._max_weight = max_weight
        self._free_weight = max_weight
        self._lock = Lock()
        self._entries = OrderedDict[Hashable, tuple[Any, int]]()

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401
        """Return the cached value of this key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Any, weight: int) -> None:  # noqa: ANN401
        """Cache a value, and evict the least recently used ones to make room.

        `weight` counts against the limit of the cache, in bytes. A value that is heavier than the
        whole cache, or cached already, is ignored.
        """
        with self._lock:
            if key in self._entries or weight > self._max_weight:
                return
            self._entries[key] = value, weight
            self._free_weight -= weight
            while self._free_weight < 0:
                _, (_, evicted_weight) = self._entries.popitem(last=False)
                self._free_weight += evicted_weight


GzipBlocks = Mapping[bytes, bytes]
"""Cache of compressed blocks by the digest of their text."""
