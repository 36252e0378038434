"""Tests of `shared.redis_keys`: the declared keys, and that no other module spells a key out."""

import re
from collections.abc import Iterator
from pathlib import Path

from shared import redis_keys
from shared.redis_keys import (
    CAUSES,
    DIRTY_SINCE,
    FAST_EVENTS,
    ISOLATED_PREFIX,
    KEY_PREFIX,
    PROBE_OF_VERSION_1,
    SAFE_EVENTS_OF_VERSION_1,
    STATE_KEYS,
    STATE_PREFIX,
    STATE_VERSION,
)

ROOT = Path(__file__).parents[2]


def declared_keys() -> Iterator[str]:
    for name, value in vars(redis_keys).items():
        if (
            name.isupper()
            and isinstance(value, str)
            and value not in {KEY_PREFIX, STATE_PREFIX, STATE_VERSION}
        ):
            yield value
    yield from DIRTY_SINCE.values()


def test_redis_keys_have_prefix_with_three_exceptions() -> None:
    keys = list(declared_keys())
    assert len(keys) > 40
    assert [key for key in keys if not key.startswith("rowdrop:")] == [
        FAST_EVENTS,
        SAFE_EVENTS_OF_VERSION_1,
        PROBE_OF_VERSION_1,
    ]


def test_redis_keys_are_distinct() -> None:
    keys = list(declared_keys())
    assert sorted(set(keys)) == sorted(keys)


def test_redis_keys_of_state_begin_with_its_version() -> None:
    keys = {key for key in declared_keys() if key.startswith(STATE_PREFIX)}
    assert keys == {*STATE_KEYS, ISOLATED_PREFIX}


def test_redis_keys_have_one_set_per_cause() -> None:
    assert tuple(DIRTY_SINCE) == CAUSES


def test_redis_keys_are_spelled_out_nowhere_else() -> None:
    sources = [
        path
        for folder in ("api", "bench", "local", "shared", "worker")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".lua"}
    ]
    assert len(sources) > 100
    files_with_keys = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if re.search("[\"']rowdrop:\\w", path.read_text())
    }
    assert files_with_keys == {"shared/redis_keys.py"}
