"""The upgrade of an installation from an earlier release, which has other keys in Redis.

The keys of this release begin empty, which is the state after losing Redis: one sweep restores it.
Only the counters and the dead letters are moved, as nothing else can restore them. Keys of version
1 with a prefix (`seen:`, `asked:`, `rebuild:`, `unpack:`) expire within a week.
"""

import logging
from typing import Any

from redis import Redis

from shared.redis_keys import (
    COUNTERS,
    DEAD_LETTERS,
    MAX_DEAD_LETTERS,
    PROBE_OF_VERSION_1,
    SCHEMA_VERSION,
)
from shared.scripts import Scripts

logger = logging.getLogger(__name__)

CURRENT_VERSION = "2"
"""Version of the set of keys in `shared.redis_keys`, with the forms of their values."""

_OLD_COUNTERS = "counters"
_OLD_DEAD_LETTERS = "dead_letters"
_RENAMED_COUNTERS = {
    "lost_and_healed": "silent_repairs",
    "enqueued_again": "users_reenqueued",
    "readings_refused": "results_refused",
}
OLD_KEYS = {
    **dict.fromkeys(
        ("dirty", "staged", "published", "readings", "alone", "unexplained", "sweep"), "hash"
    ),
    **dict.fromkeys(("unpack:old", "unpack:tries", "ignored", "api:snapshots"), "hash"),
    **dict.fromkeys(
        ("since:event", "since:sweep", "since:rebuild", "since:bundle", "since:unpack"), "zset"
    ),
    "unpack:all": "zset",
    **dict.fromkeys(("pages", "wake:live", "wake:bulk"), "list"),
    **dict.fromkeys(("evidence:new", "evidence:looked", "doubtful", "unpack:marked"), "set"),
    **dict.fromkeys(
        ("shelf", "writer", "epoch", "notifications", "source_failure", "safe_queue"), "string"
    ),
    **dict.fromkeys(
        (PROBE_OF_VERSION_1, "sweep:alive", "sweep:queued", "unpack:alive", "ignored:total"),
        "string",
    ),
    **dict.fromkeys(("rebuild:queued", "rebuild:running", "rebuild:alive"), "string"),
}
"""The keys of version 1 that are removed, with their types."""


def upgrade_schema(client: "Redis") -> bool:
    """Remove the state of version 1, if it has not been done (UPGRADE SCHEMA).

    Returns whether there was such a state. Raises `redis.exceptions.RedisError`.
    """
    keys = [SCHEMA_VERSION, COUNTERS, DEAD_LETTERS, _OLD_COUNTERS, _OLD_DEAD_LETTERS, *OLD_KEYS]
    renames = [name for pair in _RENAMED_COUNTERS.items() for name in pair]
    arguments: list[Any] = [
        CURRENT_VERSION,
        MAX_DEAD_LETTERS,
        len(_RENAMED_COUNTERS),
        *renames,
        *OLD_KEYS.values(),
    ]
    is_upgraded = bool(Scripts(client)["upgrade_schema"](keys, arguments))
    if is_upgraded:
        logger.info(
            "upgraded Redis: removed the state of version 1, except counters and dead letters; "
            "a sweep re-reads what is out of sync"
        )
    return is_upgraded
