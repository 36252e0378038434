"""The Lua scripts, and what all parts of the state in Redis use.

Rowdrop reconciles level-triggered: an event, sweep or rebuild only marks a user dirty. A reader
then computes the result from the files as they are at that time. Results are accepted by
compare-and-set of version tokens. Each atomic step is one Lua script in `shared/lua/`. The header
of a script says what it promises, and which test fails without that.

Version tokens are random and are only compared for equality. They need no order, so they stay
correct when Redis is emptied or restarts from an older snapshot.

The keys are declared in `shared.redis_keys`.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from redis import Redis
from redis.commands.core import Script

SCRIPTS_FOLDER = Path(__file__).parent / "lua"
CHUNK_SIZE = 500
"""Users per script call. Redis serves no other client for the few milliseconds of a call."""


_Item = TypeVar("_Item")


class Scripts:
    """The Lua scripts of one Redis client, by their file names without `.lua`.

    `edits` maps a name to the text that replaces the file's, for tests that remove a rule.
    """

    def __init__(self, client: "Redis", edits: Mapping[str, str] | None = None) -> None:
        self._redis = client
        self._edits = edits or {}

    def __getitem__(self, name: str) -> Script:
        """Register the script, which makes no request: its first call loads it."""
        return self._redis.register_script(self._edits.get(name) or read_script(name))


@cache
def read_script(name: str) -> str:
    """Return the text of a script."""
    return (SCRIPTS_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def new_token() -> str:
    """Return 72 random bits as hex. Unlike a counter, they stay unique when Redis is emptied."""
    return secrets.token_hex(9)


def split_into_chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items in chunks of at most `CHUNK_SIZE`: a script blocks Redis while it runs."""
    for start in range(0, len(items), CHUNK_SIZE):
        yield items[start : start + CHUNK_SIZE]


def decode_text(value: bytes) -> str:
    """Return the text of a reply. Bytes that are not UTF-8, which others wrote, are replaced."""
    return value.decode(errors="replace")


def decode_optional(value: bytes | None) -> str | None:
    """Return the text, or None if there is no value."""
    return None if value is None else decode_text(value)


def decode_record(record: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the fields of a hash as text."""
    return {decode_text(name): decode_text(value) for name, value in record.items()}


def parse_time(value: bytes | str | None) -> float | None:
    """Return the Unix seconds in a value, or None if the event has not happened."""
    return float(value) if value else None
