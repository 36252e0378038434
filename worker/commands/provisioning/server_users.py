"""The users of Rowdrop's processes in MinIO and Redis, and their permissions.

Least privilege: each process has its own users, which may do only what the process needs.  User
names are random: MinIO rejects every request with an unknown access key, so an attacker who cannot
guess a name cannot exploit a missing signature check.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.formats.object_names import (
    CATALOG_KEY,
    IMAGES_FOLDER,
    MANIFEST_KEY,
    OUTPUT_KEY,
    REJECTS_KEY,
    UNPACKED_FOLDER,
)
from shared.formats.records import Buckets
from shared.formats.source_keys import PROBE_PREFIX, SAMPLE_PREFIX
from shared.redis_keys import (
    API_POLLS,
    API_PROCESSES,
    CHANGE_VERSIONS,
    COUNTERS,
    DEAD_LETTERS,
    DIRTY_SINCE,
    EVENTS_AVAILABLE,
    FAST_EVENTS,
    IGNORED_COUNT,
    IGNORED_KEYS,
    LAST_PUBLISH,
    LAST_SWEEP,
    LOSS_SIGNALS,
    LOSS_SIGNALS_IN_SWEEP,
    PROBE,
    PROBE_OF_VERSION_1,
    PUBLISH_DONE_CHANNEL,
    REBUILD_IDS,
    REBUILD_PREFIX,
    REBUILD_QUEUED,
    REBUILD_RUNNING,
    RECEIPTS,
    REFRESH_REQUEST_PREFIX,
    SAFE_EVENTS_OF_0_3,
    SOURCE_FAILURE,
    SWEEP_HISTORY,
    TRUST_STATE,
    UNPACK_IDS,
    UNPACK_PREFIX,
)

Statement = dict[str, Any]
Policy = dict[str, Any]

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
"""The `x-amz-content-sha256` of uploads for which some versions of MinIO do not verify the
signature (CVE-2026-40344, CVE-2026-41145)."""


_LIST_ACTIONS = ["s3:ListBucket", "s3:GetBucketLocation"]
_WRITE_ACTIONS = [
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
]
_SELF_SERVICE_ACTIONS = (
    "admin:CreateUser",
    "admin:CreateServiceAccount",
    "admin:UpdateServiceAccount",
)
"""What MinIO allows every user for its own account unless a policy denies it: changing its
password and creating service accounts."""


class ServerUser(NamedTuple):
    """A user of MinIO or Redis.  In MinIO `name` is the access key, `password` the secret key."""

    name: str
    password: str

    @classmethod
    def generate(cls, role: str) -> "ServerUser":
        """Return a user with a random name of 64 bits and a random password of 240 bits."""
        return cls(f"{role}-{secrets.token_hex(8)}", secrets.token_urlsafe(30))


def minio_policies(buckets: Buckets) -> dict[str, Policy]:
    """Return the policy of each MinIO user by role.

    `drop` is for people who drop files.  `metrics` belongs to no process: a token that is signed
    with its secret key gives access to MinIO's metrics and nothing else.
    """
    source = f"arn:aws:s3:::{buckets.source}"
    output = f"arn:aws:s3:::{buckets.output}"
    return {
        "listener": _policy(
            _allow(
                [*_LIST_ACTIONS, "s3:GetBucketNotification", "s3:PutBucketNotification"], source
            ),
            _allow(_LIST_ACTIONS, output),
            _allow(["s3:GetObject"], f"{output}/*"),
        ),
        "worker": _policy(
            _allow(_LIST_ACTIONS, source, output),
            _allow(["s3:GetObject"], f"{source}/*", f"{output}/*"),
            _allow(
                _WRITE_ACTIONS,
                f"{output}/{IMAGES_FOLDER}/*",
                f"{output}/{UNPACKED_FOLDER}/*",
                f"{output}/{CATALOG_KEY}",
            ),
        ),
        "publisher": _policy(
            _allow(_LIST_ACTIONS, output),
            _allow(["s3:GetObject"], f"{output}/*"),
            _allow(
                _WRITE_ACTIONS,
                *(
                    f"{output}/{name}"
                    for name in (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY)
                ),
            ),
            _allow(["s3:DeleteObject"], f"{output}/{IMAGES_FOLDER}/*"),
        ),
        "api": _policy(
            _allow(_LIST_ACTIONS, source, output),
            _allow(["s3:GetObject", *_WRITE_ACTIONS], f"{source}/*"),
            _allow(
                ["s3:GetObject"],
                *(
                    f"{output}/{name}"
                    for name in (OUTPUT_KEY, REJECTS_KEY, CATALOG_KEY, f"{IMAGES_FOLDER}/*")
                ),
            ),
        ),
        "loader": _policy(
            _allow(_LIST_ACTIONS, source),
            _allow(["s3:GetObject", *_WRITE_ACTIONS], f"{source}/*"),
        ),
        "drop": _policy(
            _allow(_LIST_ACTIONS, source, output),
            _allow(["s3:GetObject", *_WRITE_ACTIONS], f"{source}/*"),
            _allow(["s3:GetObject"], f"{output}/*"),
        ),
        "init": _policy(
            _allow([*_LIST_ACTIONS, "s3:CreateBucket"], source, output),
            _allow(["s3:GetBucketNotification", "s3:PutBucketNotification"], source),
            _allow(["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"], output),
            _allow(_WRITE_ACTIONS, f"{source}/{PROBE_PREFIX}*", f"{source}/{SAMPLE_PREFIX}*"),
        ),
        # No admin:* denial here: it would also deny admin:Prometheus, because a denial always wins.
        "metrics": _policy(
            {"Effect": "Allow", "Action": ["admin:Prometheus"]},
            denied_actions=_SELF_SERVICE_ACTIONS,
        ),
    }


def _allow(actions: list[str], *resources: str) -> Statement:
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources)}


def _policy(*statements: Statement, denied_actions: Sequence[str] = ("admin:*",)) -> Policy:
    administration = {"Effect": "Deny", "Action": list(denied_actions)}
    # Some versions of MinIO do not verify the signature of these uploads: the policy denies them.
    forged_writes = {
        "Effect": "Deny",
        "Action": ["s3:PutObject"],
        "Resource": ["arn:aws:s3:::*"],
        "Condition": {"StringEquals": {"s3:x-amz-content-sha256": [UNSIGNED_TRAILER]}},
    }
    return {"Version": "2012-10-17", "Statement": [*statements, administration, forged_writes]}


def digest_users(users: Mapping[str, ServerUser], buckets: Buckets) -> str:
    """Return a SHA-256 hex digest of all MinIO users and policies.

    compose/start-minio.sh compares it with the digest of the users that exist.  If it differs,
    MinIO starts with root access, so that `rowdrop init` can create the users.
    """
    state = json.dumps([sorted(users.items()), minio_policies(buckets)], sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest()


# Scripts may be loaded and run, but not flushed: the script cache is shared by all processes.
_NON_ADMIN_RULES = "+@all -@admin -@dangerous -function -script +script|load +script|exists"
# INFO is in @dangerous.  Only its section `server` is allowed: its run_id detects a Redis restart.
_PIPELINE_RULES = f"~* &* {_NON_ADMIN_RULES} +info|server"
# Each selector (in parentheses) allows some commands on some keys.  A sender may append a message
# and bind a queue.  It cannot write a value of another type there, which would stop the workers.
_SEND_RULES = (
    "(+lpush +llen +exists ~events ~bulk) "
    "(+sadd +smembers +exists ~_kombu.binding.events ~_kombu.binding.bulk"
    " ~_kombu.binding_permanent.events ~_kombu.binding_permanent.bulk)"
)
_BINDING_KEYS = (
    "~_kombu.binding.celeryev ~_kombu.binding.*celery.pidbox"
    " ~_kombu.binding_permanent.celeryev ~_kombu.binding_permanent.*celery.pidbox"
)
# kombu binds Flower's temporary queues, and refreshes and expires the bindings with scripts.
_MONITOR_RULES = (
    f"(+sadd +srem +smembers +scard +exists +del {_BINDING_KEYS})"
    " (+zadd +zrem +zrange +zrangebyscore +zscore +zcard ~_kombu.binding_deadlines)"
    f" (+eval +evalsha {_BINDING_KEYS} ~_kombu.binding_deadlines)"
)
_KEYS_READ_BY_API = (
    IGNORED_KEYS, IGNORED_COUNT, DEAD_LETTERS, *DIRTY_SINCE.values(), LAST_PUBLISH, LAST_SWEEP,
    TRUST_STATE, LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP, COUNTERS, SOURCE_FAILURE, EVENTS_AVAILABLE,
    FAST_EVENTS, CHANGE_VERSIONS, f"{REFRESH_REQUEST_PREFIX}*", f"{REBUILD_PREFIX}*",
    REBUILD_RUNNING, f"{UNPACK_PREFIX}*", UNPACK_IDS, RECEIPTS,
    SWEEP_HISTORY,
)  # fmt: skip
# A key pattern for rebuild IDs only (16 hex digits): the API writes no others.
_REBUILD_KEY_PATTERN = REBUILD_PREFIX + 16 * "[0-9a-f]"

REDIS_RULES: Mapping[str, str] = {
    "listener": _PIPELINE_RULES,
    "worker": _PIPELINE_RULES,
    "publisher": _PIPELINE_RULES,
    # The second list: a MinIO that you run yourself may still have the settings of release 0.3.
    "minio": f"~{FAST_EVENTS} ~{SAFE_EVENTS_OF_0_3} +ping +type +rpush +client|setname",
    "api": " ".join(
        [
            *(f"%R~{key}" for key in _KEYS_READ_BY_API),
            f"~{API_PROCESSES} ~{API_POLLS} ~{REBUILD_QUEUED} ~{REBUILD_IDS}"
            f" ~{_REBUILD_KEY_PATTERN} &{PUBLISH_DONE_CHANNEL}",
            _NON_ADMIN_RULES,
            _SEND_RULES,
            f"(+rpush %W~{FAST_EVENTS})",  # POST /events
        ]
    ),
    # Flower acknowledges messages under its own keys (flower:unacked*).  Write access to `unacked`
    # would allow it to enqueue any task: workers redeliver the unacknowledged messages in it.
    # Redis allows a PSUBSCRIBE only if the ACL contains its pattern literally.
    "flower": f"%R~events %R~bulk ~flower:unacked* ~celeryev* ~*.reply.celery.pidbox"
    f" &/0.celeryev/* &/0.celery.pidbox {_NON_ADMIN_RULES} {_MONITOR_RULES}",
    "init": f"~{EVENTS_AVAILABLE} %R~{PROBE} %R~{PROBE_OF_VERSION_1}"
    f" %R~{FAST_EVENTS} {_NON_ADMIN_RULES}",
    "health": "~health +ping +set",
}
"""The ACL rules of each Redis user by role.

See https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/.  `%R~` (read-only
keys) requires Redis 7.0.  `minio` is the user of MinIO's event targets, `health` that of the
container health check.
"""


def format_redis_acl(users: Mapping[str, ServerUser]) -> list[str]:
    """Return the lines of redis.conf that define exactly these users.

    The default user is disabled.  Passwords are stored as unsalted SHA-256 digests, which is enough
    because only the server reads the file.
    """
    lines = ["user default off resetchannels -@all"]
    for role, user in users.items():
        digest = hashlib.sha256(user.password.encode()).hexdigest()
        lines.append(f"user {user.name} on #{digest} resetchannels -@all {REDIS_RULES[role]}")
    return lines
