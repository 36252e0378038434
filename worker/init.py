"""Prepare the servers: `python -m worker.init`.  Makes users and buckets, has MinIO send its events, and proves it.

It adds its notification rules to those it finds and changes nothing else.  Where MinIO has no Redis target of ours it
prints the lines to set, and Rowdrop goes on with sweeps alone.  May be run as often as one likes.

With `--sample yes` the invented users of `worker/sample.py` go into a source bucket that it has just made, never into
another.
"""

import argparse
import io
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from minio.error import MinioAdminException, MinioException, S3Error, ServerError
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.records import Buckets
from shared.settings import InvalidSettings, Settings
from worker import sample
from worker.credential_set import UNKNOWN_USERS, InvalidCredentials
from worker.forgery_probe import forged_keys
from worker.minio_users import MinioUsers
from worker.notifications import TARGETS, Notifications, Rules
from worker.public_output import set_public
from worker.server_users import PROBE_PREFIX, REDIS_RULES, minio_policies
from worker.wiring import Wiring

__all__ = ["PROBE_PREFIX", "Init"]

logger = logging.getLogger(__name__)

PROBE_WAIT_S = 10.0
RESTART_WAIT_S = 60.0
"""Seconds that MinIO may take to start again without root's access."""


class Init:
    """Prepares the servers of `wiring`; waits `probe_wait_s` seconds for the event that proves it.

    `forge` tries to write without a secret key, as `worker.forgery_probe.forged_keys` does.
    """

    def __init__(
        self,
        wiring: Wiring,
        probe_wait_s: float = PROBE_WAIT_S,
        *,
        with_sample: bool = False,
        forge: Callable[[str, str, str, str, str], list[str]] = forged_keys,
    ) -> None:
        self._wiring, self._settings, self._probe_wait_s = wiring, wiring.settings, probe_wait_s
        self._forge = forge
        self._with_sample = with_sample
        self._minio = wiring.init_client()
        self._users = MinioUsers(wiring.settings) if wiring.settings.minio_users else None

    def run(self) -> None:
        """Make everything ready.  Raises what an unreachable server raises."""
        self._make_users()
        source, output = self._settings.source_bucket, self._settings.output_bucket
        is_new = self._make_bucket(source)
        self._make_bucket(output)
        self._look_for_forged_writes()
        public = self._settings.public_output
        if set_public(self._minio, output, public=public):
            print(f"{output} can be read {'by anybody, without keys' if public else 'with keys only'}", flush=True)
        notifications = Notifications(self._minio, source)
        events_come = notifications.mend() is not Rules.NO_TARGET and self._probe()
        self._wiring.backlog.note_notifications(come=events_come)
        if not events_come:
            print(_lines_to_set(self._settings), flush=True)
        if is_new and self._with_sample:
            sample.drop(self._minio, source)

    def wait_for_servers(self, wait_s: float) -> None:
        """Return once MinIO and Redis answer.  After `wait_s` seconds, or at once if MinIO refuses the keys, raises."""
        until = time.monotonic() + wait_s
        told = False
        while (error := self._unavailable()) is not None:
            if time.monotonic() > until or _is_refusal(error):
                raise error
            if not told:
                print(f"waiting for MinIO and Redis: {error}", flush=True)
                told = True
            time.sleep(0.5)

    def _make_users(self) -> None:
        """Make MinIO's users if it was started with root's access; then wait until it is back without it.

        Raises `UnknownUsers` if MinIO does not know the users, and root may not sign in to make them.
        """
        if self._users is None:
            return
        if self._users.root_may_sign_in():
            if self._users.accepts_forged_writes():
                print(_HOLE_IN_BUILD, flush=True)
            self._users.make(RESTART_WAIT_S)
            print("made the users of MinIO", flush=True)
        unknown = self._users.unknown()
        if unknown:
            raise UnknownUsers(_UNKNOWN_USERS.format(", ".join(unknown)))

    def _look_for_forged_writes(self) -> None:
        """Warn if anyone who reaches this MinIO can write with our access key, without its secret key."""
        settings = self._settings
        forged = self._forge(
            settings.minio_endpoint,
            settings.minio_access_key,
            settings.source_bucket,
            settings.region,
            PROBE_PREFIX,
        )
        for key in forged:
            self._minio.remove_object(settings.source_bucket, key)
        if forged:
            print(_OPEN_HOLE, flush=True)

    def _unavailable(self) -> Exception | None:
        """What MinIO or Redis says instead of an answer."""
        try:
            if self._users is None:
                self._minio.bucket_exists(self._settings.source_bucket)
            else:
                self._users.root_may_sign_in()
            self._wiring.redis.ping()
        except (HTTPError, RedisError, S3Error, ServerError) as error:
            return error
        return None

    def _make_bucket(self, bucket: str) -> bool:
        """Whether it had to be made."""
        if self._minio.bucket_exists(bucket):
            return False
        self._minio.make_bucket(bucket, self._settings.region)
        print(f"created {bucket}", flush=True)
        return True

    def _probe(self) -> bool:
        """Put a key of our own and wait until its event is in Redis; the listener passes such keys over."""
        key = PROBE_PREFIX + secrets.token_hex(6)
        bucket = self._settings.source_bucket
        self._minio.put_object(bucket, key, io.BytesIO(b""), 0)
        try:
            until = time.monotonic() + self._probe_wait_s
            while time.monotonic() < until:
                if self._wiring.backlog.probe_came(key):
                    return True
                time.sleep(0.05)
            return False
        finally:
            self._minio.remove_object(bucket, key)


class UnknownUsers(Exception):
    """MinIO does not know users of this start, and root may not sign in to make them."""


_HOLE_IN_BUILD = (
    "WARNING: this MinIO accepts uploads without a valid signature (CVE-2026-40344, CVE-2026-41145).\n"
    "They are refused for all users of Rowdrop, by their policies, and root's access is off.  A user that you make\n"
    "yourself is not protected.  Use the MinIO that Rowdrop builds: unset MINIO_BINARY, or with docker compose\n"
    "MINIO_IMAGE, and start again."
)
_OPEN_HOLE = (
    "WARNING: anyone who reaches this MinIO can write any object.  It accepts uploads without a valid signature\n"
    "(CVE-2026-40344, CVE-2026-41145), and nothing forbids them to the access key of Rowdrop.\n"
    "Use a MinIO in which this is closed, such as the one that Rowdrop builds (minio-source/README.md).  Until then:\n"
    "make a user for each process with the policies that `python -m worker.init --print-policies` prints, which\n"
    "forbid such uploads; turn root's access off (MINIO_API_ROOT_ACCESS=off); and let nobody else reach MinIO's port."
)
_UNKNOWN_USERS = (
    "MinIO does not know its users ({}), or not with these passwords, and root's access is off.\n"
    "Start MinIO again with root's access, so that they are made.  ./run.sh does so by itself.  With docker compose:\n"
    "  docker compose run --rm --no-deps -T secrets rm -f /srv/minio/users-made\n"
    "  docker compose up -d --force-recreate"
)


def _is_refusal(error: Exception) -> bool:
    """Whether waiting would not help: MinIO does not know the key, or not with this secret, or forbids it."""
    return isinstance(error, S3Error) and error.code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def _lines_to_set(settings: Settings) -> str:
    url = urlsplit(settings.redis_url)
    lines = [
        "MinIO does not send its events to this Redis, so that changes show only after a sweep.",
        "For rows within milliseconds start MinIO with these variables, then start Rowdrop again:",
    ]
    # The user in our own REDIS_URL is that of this process, which may not append events.
    to_be_filled_in = "<its password>" if url.username else "<the password in REDIS_URL>"
    for target, key in TARGETS.items():
        lines += [
            f"  MINIO_NOTIFY_REDIS_ENABLE_{target}=on",
            f"  MINIO_NOTIFY_REDIS_ADDRESS_{target}={url.hostname}:{url.port or 6379}",
            *([f"  MINIO_NOTIFY_REDIS_USER_{target}=<the user `minio` of REDIS_USERS>"] if url.username else []),
            f"  MINIO_NOTIFY_REDIS_PASSWORD_{target}={to_be_filled_in}",
            f"  MINIO_NOTIFY_REDIS_FORMAT_{target}=access",
            f"  MINIO_NOTIFY_REDIS_KEY_{target}={key}",
        ]
    lines += [
        "  MINIO_NOTIFY_REDIS_QUEUE_DIR_SAFE=<a folder of its own on MinIO's disk>",
        "  MINIO_NOTIFY_REDIS_QUEUE_LIMIT_SAFE=1000000",
        "  MINIO_SYNC_BOOT=on",
        "  MINIO_PROMETHEUS_AUTH_TYPE=public   (or give Rowdrop a MINIO_PROMETHEUS_TOKEN)",
        "  GOMAXPROCS=8   (more senders of events than cores: they starve in a burst else)",
    ]
    return "\n".join(lines)


def policies_to_set(settings: Settings) -> str:
    """Return the policy of each user in MinIO and the ACL rules of each user in Redis, to be set by hand."""
    buckets = Buckets(settings.source_bucket, settings.output_bucket)
    lines = ["# One MinIO user for each of these policies; MINIO_USERS='worker=<access key>:<secret key>,api=…'"]
    for role, policy in minio_policies(buckets).items():
        lines.append(f"\n# {role}\n{json.dumps(policy, indent=2)}")
    lines.append("\n# One Redis user for each of these (Redis 7.0); REDIS_USERS='worker=<name>:<password>,api=…'")
    for role, rules in REDIS_RULES.items():
        lines.append(f"ACL SETUSER <name of {role}> on ><password> resetchannels -@all {rules}")
    return "\n".join(lines)


def main() -> None:
    """Prepare the servers that the environment names; exit 1 with the reason if they cannot be."""
    parser = argparse.ArgumentParser(prog="python -m worker.init", description="Prepare buckets and notifications.")
    parser.add_argument(
        "--sample", choices=("yes", "no"), default="no", help="drop a sample into a source bucket that is new"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait so long for the servers")
    parser.add_argument(
        "--print-policies", action="store_true", help="print the users that servers of your own need, and do nothing"
    )
    arguments = parser.parse_args()
    try:
        if arguments.print_policies:
            print(policies_to_set(Settings.from_environment(minio=False, redis=False)))
            return
        init = Init(Wiring.from_environment(), with_sample=arguments.sample == "yes")
        init.wait_for_servers(arguments.wait)
        init.run()
    except UnknownUsers as error:
        print(error, file=sys.stderr)
        sys.exit(UNKNOWN_USERS)
    except (InvalidSettings, InvalidCredentials) as error:
        sys.exit(str(error))
    except (HTTPError, RedisError, MinioException, MinioAdminException) as error:
        sys.exit(f"the servers cannot be prepared: {error}")


if __name__ == "__main__":
    main()
