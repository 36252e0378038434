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

from shared.published import BUNDLES, IMAGES, MANIFEST, OUTPUT, REJECTS, UNPACKED
from shared.records import Buckets

Statement = dict[str, Any]
Policy = dict[str, Any]

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
"""The `x-amz-content-sha256` of uploads for which some versions of MinIO do not verify the
signature (CVE-2026-40344, CVE-2026-41145)."""

PROBE_PREFIX = ".rowdrop-probe-"
"""Prefix of the keys that `worker.init` writes to test event delivery.  The listener ignores
them."""
SAMPLE_PREFIX = "sample-"
"""Prefix of the keys of the sample (`worker.sample`)."""

_LIST = ["s3:ListBucket", "s3:GetBucketLocation"]
_WRITE = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
_ON_ITSELF = ("admin:CreateUser", "admin:CreateServiceAccount", "admin:UpdateServiceAccount")
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
            _allow([*_LIST, "s3:GetBucketNotification", "s3:PutBucketNotification"], source),
            _allow(_LIST, output),
            _allow(["s3:GetObject"], f"{output}/*"),
        ),
        "worker": _policy(
            _allow(_LIST, source, output),
            _allow(["s3:GetObject"], f"{source}/*", f"{output}/*"),
            _allow(_WRITE, f"{output}/{IMAGES}/*", f"{output}/{UNPACKED}/*", f"{output}/{BUNDLES}"),
        ),
        "publisher": _policy(
            _allow(_LIST, output),
            _allow(["s3:GetObject"], f"{output}/*"),
            _allow(_WRITE, *(f"{output}/{name}" for name in (OUTPUT, REJECTS, MANIFEST, BUNDLES))),
            _allow(["s3:DeleteObject"], f"{output}/{IMAGES}/*"),
        ),
        "api": _policy(
            _allow(_LIST, source, output),
            _allow(["s3:GetObject", *_WRITE], f"{source}/*"),
            _allow(["s3:GetObject"], *(f"{output}/{name}" for name in (OUTPUT, REJECTS, f"{IMAGES}/*"))),
        ),
        "loader": _policy(
            _allow(_LIST, source),
            _allow(["s3:GetObject", *_WRITE], f"{source}/*"),
        ),
        "drop": _policy(
            _allow(_LIST, source, output),
            _allow(["s3:GetObject", *_WRITE], f"{source}/*"),
            _allow(["s3:GetObject"], f"{output}/*"),
        ),
        "init": _policy(
            _allow([*_LIST, "s3:CreateBucket"], source, output),
            _allow(["s3:GetBucketNotification", "s3:PutBucketNotification"], source),
            _allow(["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"], output),
            _allow(_WRITE, f"{source}/{PROBE_PREFIX}*", f"{source}/{SAMPLE_PREFIX}*"),
        ),
        # No admin:* denial here: it would also deny admin:Prometheus, because a denial always wins.
        "metrics": _policy({"Effect": "Allow", "Action": ["admin:Prometheus"]}, denied=_ON_ITSELF),
    }


def _allow(actions: list[str], *resources: str) -> Statement:
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources)}


def _policy(*statements: Statement, denied: Sequence[str] = ("admin:*",)) -> Policy:
    administration = {"Effect": "Deny", "Action": list(denied)}
    # Some versions of MinIO do not verify the signature of these uploads, so the policy denies them.
    forged_writes = {
        "Effect": "Deny",
        "Action": ["s3:PutObject"],
        "Resource": ["arn:aws:s3:::*"],
        "Condition": {"StringEquals": {"s3:x-amz-content-sha256": [UNSIGNED_TRAILER]}},
    }
    return {"Version": "2012-10-17", "Statement": [*statements, administration, forged_writes]}


def users_id(users: Mapping[str, ServerUser], buckets: Buckets) -> str:
    """Return a SHA-256 hex digest of all MinIO users and policies.

    compose/start-minio.sh compares it with the digest of the users that exist.  If it differs,
    MinIO starts with root access, so that `worker.init` can create the users.
    """
    state = json.dumps([sorted(users.items()), minio_policies(buckets)], sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest()


# Scripts may be loaded and run, but not flushed: the script cache is shared by all processes.
_NO_ADMIN = "+@all -@admin -@dangerous -function -script +script|load +script|exists"
# INFO is in @dangerous.  Only its section `server` is allowed: its run_id detects a Redis restart.
_PIPELINE = f"~* &* {_NO_ADMIN} +info|server"
# Each selector (in parentheses) allows some commands on some keys.  A sender may append a message
# and bind a queue.  It cannot write a value of another type there, which would stop the workers.
_SEND_MESSAGES = (
    "(+lpush +llen +exists ~events ~bulk) "
    "(+sadd +smembers +exists ~_kombu.binding.events ~_kombu.binding.bulk"
    " ~_kombu.binding_permanent.events ~_kombu.binding_permanent.bulk)"
)
_BINDINGS = (
    "~_kombu.binding.celeryev ~_kombu.binding.*celery.pidbox"
    " ~_kombu.binding_permanent.celeryev ~_kombu.binding_permanent.*celery.pidbox"
)
# kombu binds Flower's temporary queues, and refreshes and expires the bindings with scripts.
_FOLLOW_WORKERS = (
    f"(+sadd +srem +smembers +scard +exists +del {_BINDINGS})"
    " (+zadd +zrem +zrange +zrangebyscore +zscore +zcard ~_kombu.binding_deadlines)"
    f" (+eval +evalsha {_BINDINGS} ~_kombu.binding_deadlines)"
)
_READ_BY_API = (
    "ignored", "ignored:total", "dead_letters", "since:*", "published", "sweep", "epoch", "evidence:new",
    "evidence:looked", "counters", "source_failure", "notifications", "safe_queue", "events:fast", "events:safe",
    "dirty", "asked:*", "rebuild:*", "unpack:*",
)  # fmt: skip
# A key pattern for rebuild IDs only (16 hex digits): it excludes the other keys under rebuild:*.
_REBUILD_IDS = "rebuild:" + 16 * "[0-9a-f]"

REDIS_RULES: Mapping[str, str] = {
    "listener": _PIPELINE,
    "worker": _PIPELINE,
    "publisher": _PIPELINE,
    "minio": "~events:fast ~events:safe +ping +type +rpush +client|setname",
    "api": " ".join(
        [
            *(f"%R~{key}" for key in _READ_BY_API),
            f"~api:snapshots ~rebuild:queued ~{_REBUILD_IDS} &published {_NO_ADMIN} {_SEND_MESSAGES}",
        ]
    ),
    "beat": f"{_NO_ADMIN} {_SEND_MESSAGES}",
    # Flower acknowledges messages under its own keys (flower:unacked*).  Write access to `unacked`
    # would allow it to enqueue any task: workers redeliver the unacknowledged messages in it.
    # Redis allows a PSUBSCRIBE only if the ACL contains its pattern literally.
    "flower": f"%R~events %R~bulk ~flower:unacked* ~celeryev* ~*.reply.celery.pidbox"
    f" &/0.celeryev/* &/0.celery.pidbox {_NO_ADMIN} {_FOLLOW_WORKERS}",
    "init": f"~notifications %R~probe %R~events:fast %R~events:safe {_NO_ADMIN}",
    "health": "~health +ping +set",
}
"""The ACL rules of each Redis user by role.

See https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/.  `%R~` (read-only
keys) requires Redis 7.0.  `minio` is the user of MinIO's event targets, `health` that of the
container health check.
"""


def redis_acl(users: Mapping[str, ServerUser]) -> list[str]:
    """Return the lines of redis.conf that define exactly these users.

    The default user is disabled.  Passwords are stored as unsalted SHA-256 digests, which is enough
    because only the server reads the file.
    """
    lines = ["user default off resetchannels -@all"]
    for role, user in users.items():
        digest = hashlib.sha256(user.password.encode()).hexdigest()
        lines.append(f"user {user.name} on #{digest} resetchannels -@all {REDIS_RULES[role]}")
    return lines
