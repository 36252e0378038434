"""Create MinIO's users and their policies as root, for `rowdrop init`.

Root access is enabled only until the users exist (compose/start-minio.sh): `create_users` ends by
stopping MinIO, and its supervisor restarts it without root access.
"""

import json
import secrets
import time
from urllib.parse import urlsplit

from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioException, S3Error
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from shared.formats.records import Buckets
from shared.formats.source_keys import PROBE_PREFIX
from shared.settings import Settings
from worker.commands.provisioning.credential_set import parse_users
from worker.commands.provisioning.forgery_probe import probe_forged_writes
from worker.commands.provisioning.server_users import ServerUser, minio_policies

POLICY_PREFIX = "rowdrop-"


class MinioUsers:
    """The users in `MINIO_USERS`.  Raises `InvalidCredentials` if the setting cannot be parsed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._users = parse_users(settings.minio_users, "MINIO_USERS")
        self._http = PoolManager(timeout=Timeout(connect=2, read=15), retries=False)
        root = ServerUser(settings.minio_root_user, settings.minio_root_password)
        self._root_client = self._make_client(root)
        self._admin = MinioAdmin(
            endpoint=urlsplit(settings.minio_endpoint).netloc,
            credentials=StaticProvider(root.name, root.password),
            secure=settings.minio_endpoint.startswith("https://"),
            http_client=self._http,
        )

    def _make_client(self, user: ServerUser) -> Minio:
        url = urlsplit(self._settings.minio_endpoint)
        return Minio(
            url.netloc,
            user.name,
            user.password,
            secure=url.scheme == "https",
            region=self._settings.region,
            http_client=self._http,
        )

    def is_root_enabled(self) -> bool:
        """Return whether MinIO was started with root access.

        Raises `S3Error` if root's password is wrong or MinIO has not loaded its users yet, and
        `urllib3.exceptions.HTTPError` if MinIO is not available.
        """
        try:
            self._root_client.list_buckets()
        except S3Error as error:
            # MinIO returns this code for root while root access is off, as for an unknown user.
            if error.code == "InvalidAccessKeyId":
                # MinIO also returns it before it has loaded its users. This request then raises.
                self.find_unknown_roles()
                return False
            raise
        return True

    def accepts_forged_writes(self) -> bool:
        """Return whether MinIO accepts uploads without a valid signature if no policy denies them.

        The probe uses root's access key, because no policy applies to root.  It creates a temporary
        bucket and removes it.  Raises `S3Error`, `HTTPError`.
        """
        bucket = f"rowdrop-probe-{secrets.token_hex(6)}"
        endpoint = self._settings.minio_endpoint
        region = self._settings.region
        self._root_client.make_bucket(bucket, region)
        try:
            forged_keys = probe_forged_writes(
                endpoint, self._settings.minio_root_user, bucket, region, PROBE_PREFIX
            )
            for key in forged_keys:
                self._root_client.remove_object(bucket, key)
        finally:
            self._root_client.remove_bucket(bucket)
        return bool(forged_keys)

    def create_users(self, restart_timeout_s: float) -> None:
        """Create all users and policies, and remove the users of earlier credentials.

        Then stop MinIO and return once it has restarted without root access; with
        MINIO_API_ROOT_ACCESS=on it is not stopped.  Raises `MinioAdminException` if an admin
        request fails, and `MinioException` or `HTTPError` if MinIO has not restarted within
        `restart_timeout_s` seconds.
        """
        policies = minio_policies(
            Buckets(self._settings.source_bucket, self._settings.output_bucket)
        )
        for role, user in self._users.items():
            policy = POLICY_PREFIX + role
            self._admin.policy_add(policy, policy=policies[role])
            self._admin.user_add(user.name, user.password)
            self._admin.policy_set(policy, user=user.name)
        for name in self._find_outdated_names():
            self._admin.user_remove(name)
        if not self._settings.allow_root_access:
            # compose/start-minio.sh takes exit status 0 as the sign that the users exist.
            self._admin.service_stop()
            self._wait_for_root_disabled(restart_timeout_s)

    def _wait_for_root_disabled(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        last_error: Exception = MinioException("MinIO did not restart without root access in time")
        while time.monotonic() < until:
            try:
                if not self.is_root_enabled():
                    return
            except (HTTPError, MinioException) as error:  # it is stopping or starting: retry
                last_error = error
            time.sleep(0.1)
        raise last_error

    def find_unknown_roles(self) -> list[str]:
        """Return the roles without a user in MinIO, or with a user that has another password.

        Raises `S3Error`, `urllib3.exceptions.HTTPError`.
        """
        return [role for role, user in self._users.items() if not self._is_known(user)]

    def _is_known(self, user: ServerUser) -> bool:
        try:
            self._make_client(user).list_buckets()
        except S3Error as error:
            if error.code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
                return False
            # AccessDenied means that the credentials are valid: most users may not list buckets.
            if error.code != "AccessDenied":
                raise
        return True

    def _find_outdated_names(self) -> list[str]:
        """Return the users that an earlier start created and that are no longer configured.

        A policy name with `POLICY_PREFIX` identifies them, so users created by hand are kept.
        """
        current = {user.name for user in self._users.values()}
        existing_users: dict[str, dict[str, str]] = json.loads(self._admin.user_list() or "{}")
        return [
            name
            for name, user in existing_users.items()
            if user.get("policyName", "").startswith(POLICY_PREFIX) and name not in current
        ]
