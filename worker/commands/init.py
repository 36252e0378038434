"""Prepare MinIO before Rowdrop's processes start: `rowdrop init`.

The command is idempotent.  It creates MinIO's users (only if root may sign in), the buckets and
the missing notification rules.  Existing rules of other applications are kept.  It then writes a
probe object and waits for its event in Redis.  If no event arrives, it prints the settings that
MinIO needs, and Rowdrop relies on sweeps alone.  If the store cannot send events to Redis, and
EVENTS_TOKEN is set, a rule that sends all events to another target is taken for the webhook.

With `--sample yes` it writes the sample of `worker/commands/sample.py`, but only into a source
bucket that it has just created.
"""

import io
import logging
import secrets
import time
from collections.abc import Callable

from minio.error import S3Error, ServerError
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.formats.source_keys import PROBE_PREFIX
from worker.commands import sample
from worker.commands.provisioning.forgery_probe import probe_forged_writes
from worker.commands.provisioning.instructions import (
    FORGED_WRITES_WARNING,
    UNKNOWN_USERS_MESSAGE,
    VULNERABLE_BUILD_WARNING,
    UnknownUsers,
    format_event_settings,
)
from worker.commands.provisioning.minio_users import MinioUsers
from worker.commands.provisioning.public_output import set_public_access
from worker.services.container import Services
from worker.source.notifications import NotificationRules, RuleState

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0
"""Timeout in seconds for the event of the probe object."""
RESTART_TIMEOUT_S = 60.0
"""Timeout in seconds for MinIO's restart without root access."""


class Initializer:
    """Prepares the servers that `services` connects to.

    `probe_timeout_s` is the timeout in seconds for the event of the probe object.  `with_sample`
    adds the sample to a new source bucket.  `probe_forgery` attempts writes without a secret key:
    it has the signature of `worker.commands.provisioning.forgery_probe.probe_forged_writes`, and
    tests replace it.
    """

    def __init__(
        self,
        services: Services,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
        *,
        with_sample: bool = False,
        probe_forgery: Callable[[str, str, str, str, str], list[str]] = probe_forged_writes,
    ) -> None:
        self._services = services
        self._settings = services.clients.settings
        self._probe_timeout_s = probe_timeout_s
        self._probe_forgery = probe_forgery
        self._with_sample = with_sample
        self._minio = services.clients.create_minio_client()
        self._minio_users = (
            MinioUsers(services.clients.settings) if services.clients.settings.minio_users else None
        )

    def run(self) -> None:
        """Create what is missing on the servers, and record whether MinIO's events reach Redis.

        Raises `UnknownUsers` if MinIO lacks users and root may not sign in.  Errors of the servers
        (`S3Error`, `HTTPError`, `RedisError`, `MinioAdminException`) are not caught.
        """
        self._create_users()
        source = self._settings.source_bucket
        output = self._settings.output_bucket
        is_new = self._create_bucket(source)
        self._create_bucket(output)
        self._warn_about_forged_writes()
        public = self._settings.public_output
        if set_public_access(self._minio, output, public=public):
            readers = "by anybody, without keys" if public else "with keys only"
            print(f"{output} is readable {readers}", flush=True)
        events_available = self._ensure_events()
        self._services.state.inbox.set_events_available(available=events_available)
        if not events_available:
            print(format_event_settings(self._settings), flush=True)
        if is_new and self._with_sample:
            # After the notification rules exist, so that events announce the sample's files.
            sample.drop_sample(self._minio, source)

    def _ensure_events(self) -> bool:
        """Add the notification rule, and return whether events reach Redis."""
        try:
            rule_state = NotificationRules(self._minio, self._settings.source_bucket).ensure_rules()
        except S3Error as error:
            if not self._settings.events_token or _is_access_error(error):
                raise
            # A store without notification rules answers the request in some way of its own.
            rule_state = RuleState.UNSUPPORTED
        if rule_state in {RuleState.PRESENT, RuleState.RESTORED}:
            # A rule is no proof: MinIO may send the events to another Redis.  Hence the probe.
            return self._probe_events()
        # No probe here: the API, which takes the events of a webhook, may start later.
        return rule_state is RuleState.OTHER_TARGET and bool(self._settings.events_token)

    def wait_for_servers(self, timeout_s: float) -> None:
        """Return as soon as MinIO and Redis respond.

        Retries every 0.5 s.  Raises the last error after `timeout_s` seconds, and without a retry
        if MinIO rejects the credentials.
        """
        until = time.monotonic() + timeout_s
        has_reported = False
        while (error := self._find_outage()) is not None:
            if time.monotonic() > until or _is_access_error(error):
                raise error
            if not has_reported:
                print(f"MinIO or Redis is not available, retrying: {error}", flush=True)
                has_reported = True
            time.sleep(0.5)

    def _create_users(self) -> None:
        """Create MinIO's users if root may sign in, and wait for the restart without root access.

        Raises `UnknownUsers` if MinIO lacks users and root may not sign in to create them.
        """
        if self._minio_users is None:
            return
        if self._minio_users.is_root_enabled():
            if self._minio_users.accepts_forged_writes():
                # Only a warning, because the policies below deny such uploads.
                print(VULNERABLE_BUILD_WARNING, flush=True)
            self._minio_users.create_users(RESTART_TIMEOUT_S)
            print("created the users of MinIO", flush=True)
        unknown_roles = self._minio_users.find_unknown_roles()
        if unknown_roles:
            raise UnknownUsers(UNKNOWN_USERS_MESSAGE.format(", ".join(unknown_roles)))

    def _warn_about_forged_writes(self) -> None:
        """Print a warning if MinIO accepts uploads with the access key but without its secret."""
        settings = self._settings
        forged_keys = self._probe_forgery(
            settings.minio_endpoint,
            settings.minio_access_key,
            settings.source_bucket,
            settings.region,
            PROBE_PREFIX,
        )
        for key in forged_keys:
            self._minio.remove_object(settings.source_bucket, key)
        if forged_keys:
            print(FORGED_WRITES_WARNING, flush=True)

    def _find_outage(self) -> Exception | None:
        """Return the error of MinIO or Redis, or None if both are available."""
        try:
            if self._minio_users is None:
                self._minio.bucket_exists(self._settings.source_bucket)
            else:
                # MinIO may have no users yet.  A rejection of root also shows that it is available.
                self._minio_users.is_root_enabled()
            # A read and not PING: a Redis that still runs with the ACL rules of another release
            # denies it. It is not ready until it is restarted with the rules of this release.
            self._services.state.inbox.events_available()
        except (HTTPError, RedisError, S3Error, ServerError) as error:
            return error
        return None

    def _create_bucket(self, bucket: str) -> bool:
        """Create `bucket` if it is missing.  Return whether it was created."""
        if self._minio.bucket_exists(bucket):
            return False
        self._minio.make_bucket(bucket, self._settings.region)
        # `local.run` parses this line: it decides whether to wait for the rows of the sample.
        print(f"created {bucket}", flush=True)
        return True

    def _probe_events(self) -> bool:
        """Return whether the event of a new probe object reaches Redis before the timeout.

        The listener ignores keys that begin with `PROBE_PREFIX`.
        """
        key = PROBE_PREFIX + secrets.token_hex(6)
        bucket = self._settings.source_bucket
        self._minio.put_object(bucket, key, io.BytesIO(b""), 0)
        try:
            until = time.monotonic() + self._probe_timeout_s
            while time.monotonic() < until:
                if self._services.state.inbox.has_probe_arrived(key):
                    return True
                time.sleep(0.05)
            return False
        finally:
            self._minio.remove_object(bucket, key)


def _is_access_error(error: Exception) -> bool:
    """Return whether MinIO rejected the credentials or denied access: a retry cannot succeed."""
    return isinstance(error, S3Error) and error.code in {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
    }
