"""What was made of one version of the table, kept for who asks the same: all goes when the table goes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

KEPT_ANSWERS_BYTES = 32 << 20
MOST_QUESTIONS = 512

_Made = TypeVar("_Made")


class Prepared:
    """Things that are made once, when they are first wanted.  For many threads: others wait while one makes it."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What was made under this key, or is made now."""
        if key not in self._made:
            with self._locks.setdefault(key, Lock()):
                if key not in self._made:
                    self._made[key] = make()
        made: _Made = self._made[key]
        return made

    def there(self, key: Hashable) -> Any | None:  # noqa: ANN401
        """What was made under this key; None if nothing was."""
        return self._made.get(key)


class Answers:
    """Things of some size, the least recently used forgotten first.  For many threads."""

    def __init__(self, most_bytes: int = KEPT_ANSWERS_BYTES) -> None:
        self._most = self._left = most_bytes
        self._lock, self._kept = Lock(), OrderedDict[Hashable, tuple[Any, int]]()

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401  whatever was kept
        """What is kept under this key."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def keep(self, key: Hashable, answer: Any, size: int | None = None) -> None:  # noqa: ANN401
        """Keep an answer of `size` bytes (its length), unless it is larger than all room there is."""
        size = len(answer) if size is None else size
        with self._lock:
            if key in self._kept or size > self._most:
                return
            self._kept[key] = answer, size
            self._left -= size
            while self._left < 0:
                self._left += self._kept.popitem(last=False)[1][1]

    def made(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The answer under this key, or one that is made now and kept."""
        answer: bytes | None = self.get(key)
        if answer is None:
            answer = make()
            self.keep(key, answer)
        return answer
