"""The upgrade of an installation from an earlier release, which has other keys in Redis.

The state of this release begins empty, which is the state after losing Redis: one sweep restores
it. Version 2 (release 0.3) kept the rest under the keys of this release. Of version 1 (release 0.2)
the counters and the dead letters are moved, as nothing else can restore them. Its keys with a
prefix (`seen:`, `asked:`, `rebuild:`, `unpack:`) expire within a week.
"""

import logging
from typing import Any

from redis import Redis

from shared.redis_keys import (
    CAUSES,
    COUNTERS,
    DEAD_LETTERS,
    KEY_PREFIX,
    MAX_DEAD_LETTERS,
    PROBE_OF_VERSION_1,
    REBUILD_PREFIX,
    REBUILD_RUNNING,
    SCHEMA_VERSION,
    STATE_KEYS,
    STATE_VERSION,
)
from shared.scripts import Scripts
from worker.state.loss_signals import LossSignals

logger = logging.getLogger(__name__)

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
DIRTY_OF_VERSION_2 = f"{KEY_PREFIX}dirty"
KEYS_OF_VERSION_2 = (
    DIRTY_OF_VERSION_2,
    *(f"{KEY_PREFIX}dirty_since:{cause}" for cause in CAUSES),
    *(
        f"{KEY_PREFIX}{name}"
        for name in (
            "active_reads", "suspect_users", "isolated_users", "silent_drift", "pages",
            "pending_results", "wake:live", "wake:bulk", "last_publish", "trust_state",
            "loss_signals", "loss_signals:in_sweep", "last_sweep", "catalog_version",
            "api:processes", "safe_queue",
        )
    ),
)  # fmt: skip
"""The keys of version 2 that are removed."""


def upgrade_schema(client: "Redis") -> bool:
    """Remove the state of earlier releases, if there is any.

    It may be called at any time. Returns whether there was such a state: then the trust state is
    suspect, so a sweep follows. Raises `redis.exceptions.RedisError`.
    """
    # Both run: the second one records the version.
    was_version_2 = _remove_version_2(client)
    return _remove_version_1(client) or was_version_2


def _remove_version_2(client: "Redis") -> bool:
    redis: Any = client
    version: bytes | None = redis.get(SCHEMA_VERSION)
    is_other_version = version not in {None, STATE_VERSION.encode()}
    if is_other_version:
        # State of this version is from before a return to an earlier release.
        redis.unlink(*STATE_KEYS)
    elif redis.exists(DIRTY_OF_VERSION_2):
        # A process of release 0.3 still runs, and marks users which no process here would read.
        LossSignals(client, Scripts(client)).add("earlier_release")
    else:
        return False
    running_rebuild: bytes | None = redis.get(REBUILD_RUNNING)
    if running_rebuild:
        # Its users are not dirty any more. The watchdog resumes it, so all of them are marked.
        redis.hdel(REBUILD_PREFIX + running_rebuild.decode(), "enqueued")
    redis.unlink(*KEYS_OF_VERSION_2)
    logger.info("removed the state of release 0.3 from Redis; a sweep re-reads what is out of sync")
    return True


def _remove_version_1(client: "Redis") -> bool:
    """Remove the state of version 1, and record the version of this release (UPGRADE SCHEMA)."""
    keys = [SCHEMA_VERSION, COUNTERS, DEAD_LETTERS, _OLD_COUNTERS, _OLD_DEAD_LETTERS, *OLD_KEYS]
    renames = [name for pair in _RENAMED_COUNTERS.items() for name in pair]
    arguments: list[Any] = [
        STATE_VERSION,
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
