"""Tests of `shared.redis_keys`: the declared keys, and that no other module spells a key out."""

import re
from collections.abc import Iterator
from pathlib import Path

from shared import redis_keys
from shared.formats.records import CsvVersion, InvalidCsv, Person, ReadResult, ValidCsv
from shared.redis_keys import (
    CAUSES,
    DIRTY_SINCE,
    FAST_EVENTS,
    ISOLATED_PREFIX,
    KEY_PREFIX,
    PROBE_OF_VERSION_1,
    SAFE_EVENTS_OF_0_3,
    STATE_KEYS,
    STATE_PREFIX,
    STATE_VERSION,
)
from worker.state import schema_upgrade

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
        SAFE_EVENTS_OF_0_3,
        PROBE_OF_VERSION_1,
    ]


def test_redis_keys_are_distinct() -> None:
    keys = list(declared_keys())
    assert sorted(set(keys)) == sorted(keys)


def test_redis_keys_of_state_begin_with_its_version() -> None:
    keys = {key for key in declared_keys() if key.startswith(STATE_PREFIX)}
    assert keys == {*STATE_KEYS, ISOLATED_PREFIX}


def test_keys_of_the_version_before_are_listed() -> None:
    """After a raise of `STATE_VERSION` nothing else names them, and they must be removed."""
    assert vars(schema_upgrade)[f"KEYS_OF_VERSION_{int(STATE_VERSION) - 1}"]


def test_results_have_form_of_this_state_version() -> None:
    """If this fails, raise `STATE_VERSION`: docs/architecture.md says how."""
    version = CsvVersion("1.csv", "e", 7)
    row = ReadResult("1", ValidCsv(version, Person("Ann", "Lee", 5)), "1.png")
    reject = ReadResult("1", InvalidCsv(version, "empty", 2, "1"), "c.png", "a.zip", ("b.png",))
    assert STATE_VERSION == "3"
    assert row.to_json() == '[["1.csv","e",7,"Ann","Lee",5],"1.png"]'
    assert reject.to_json() == '[["1.csv","e",7,["empty",2,"1"]],"c.png","a.zip",["b.png"]]'
    assert ReadResult("1", None, None).to_json() == "[null,null]"


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
