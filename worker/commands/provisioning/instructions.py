"""What `rowdrop init` prints when a person has to change the configuration of a server."""

import json
from urllib.parse import urlsplit

from shared.formats.events import EVENT_TARGET
from shared.formats.records import Buckets
from shared.redis_keys import FAST_EVENTS
from shared.settings import Settings
from worker.commands.provisioning.server_users import REDIS_RULES, minio_policies

VULNERABLE_BUILD_WARNING = (
    "WARNING: this MinIO accepts uploads without a valid signature\n"
    "(CVE-2026-40344, CVE-2026-41145).  The policies of Rowdrop's users deny them, and root\n"
    "access is off.  A user that you create yourself is not protected.  Use the MinIO that\n"
    "Rowdrop builds: unset MINIO_BINARY (with docker compose: MINIO_IMAGE) and start again."
)


FORGED_WRITES_WARNING = (
    "WARNING: anyone who reaches this MinIO can write any object.  It accepts uploads without a\n"
    "valid signature (CVE-2026-40344, CVE-2026-41145), and no policy denies them to Rowdrop's\n"
    "access key.  Use a patched MinIO, such as the one that Rowdrop builds\n"
    "(minio-source/README.md).  Until then:\n"
    "- create one user for each process, with the policies that\n"
    "  `rowdrop init --print-policies` prints: they deny such uploads,\n"
    "- disable root access (MINIO_API_ROOT_ACCESS=off),\n"
    "- restrict network access to MinIO's port to Rowdrop and trusted clients."
)


ACL_HINT = (
    "The ACL rules of this Redis are not those of this release.  Restart the Redis of ./run.sh or\n"
    "docker compose: it reads the rules when it starts.  In a Redis of your own, run the commands\n"
    "ACL SETUSER again that `rowdrop init --print-policies` prints."
)
UNKNOWN_USERS_MESSAGE = (
    "MinIO lacks these users, or has them with other passwords: {}.  Root access is off, so they\n"
    "cannot be created.  Restart MinIO with root access.  ./run.sh does this automatically.\n"
    "With docker compose:\n"
    "  docker compose run --rm --no-deps -T secrets rm -f /srv/minio/users-made\n"
    "  docker compose up -d --force-recreate"
)


class UnknownUsers(Exception):
    """MinIO lacks users of `MINIO_USERS`, and root may not sign in to create them."""


def format_event_settings(settings: Settings) -> str:
    """Return the variables with which MinIO must be started to publish its events to this Redis."""
    url = urlsplit(settings.redis_url)
    lines = [
        "MinIO's events do not reach this Redis, so Rowdrop finds changes only by sweeps.",
        "To publish changes within milliseconds, restart MinIO with these variables, then Rowdrop:",
    ]
    # The Redis user in REDIS_URL is that of this process and may not append events.
    password_placeholder = "<its password>" if url.username else "<the password in REDIS_URL>"
    target = EVENT_TARGET
    lines += [
        f"  MINIO_NOTIFY_REDIS_ENABLE_{target}=on",
        f"  MINIO_NOTIFY_REDIS_ADDRESS_{target}={url.hostname}:{url.port or 6379}",
        *(
            [f"  MINIO_NOTIFY_REDIS_USER_{target}=<the user `minio` of REDIS_USERS>"]
            if url.username
            else []
        ),
        f"  MINIO_NOTIFY_REDIS_PASSWORD_{target}={password_placeholder}",
        f"  MINIO_NOTIFY_REDIS_FORMAT_{target}=access",
        f"  MINIO_NOTIFY_REDIS_KEY_{target}={FAST_EVENTS}",
        "  MINIO_SYNC_BOOT=on",
        "  MINIO_PROMETHEUS_AUTH_TYPE=public   (or set MINIO_PROMETHEUS_TOKEN for Rowdrop)",
        "  GOMAXPROCS=8   (the number of event senders: with fewer, they starve in a burst)",
    ]
    if settings.events_token:
        lines += [
            "Or send them to the API.  For MinIO:",
            f"  MINIO_NOTIFY_WEBHOOK_ENABLE_{target}=on",
            f"  MINIO_NOTIFY_WEBHOOK_ENDPOINT_{target}=http://<the API>/events",
            f"  MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{target}=<EVENTS_TOKEN>",
            f"  mc event add <alias>/{settings.source_bucket}"
            f" arn:minio:sqs::{target}:webhook --event put,delete",
            "For other stores see docs/configuration.md.",
        ]
    return "\n".join(lines)


def format_policies(settings: Settings) -> str:
    """Return the MinIO policy and the Redis ACL rules of each role, for servers set up by hand."""
    buckets = Buckets(settings.source_bucket, settings.output_bucket)
    lines = [
        "# One MinIO user for each of these policies;"
        " MINIO_USERS='worker=<access key>:<secret key>,api=…'"
    ]
    for role, policy in minio_policies(buckets).items():
        lines.append(f"\n# {role}\n{json.dumps(policy, indent=2)}")
    lines.append(
        "\n# One Redis user for each of these (Redis 7.0);"
        " REDIS_USERS='worker=<name>:<password>,api=…'"
    )
    for role, rules in REDIS_RULES.items():
        lines.append(f"ACL SETUSER <name of {role}> on ><password> resetchannels -@all {rules}")
    return "\n".join(lines)
