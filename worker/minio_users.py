"""Make MinIO's users and their policies, as root.

MinIO is started with root's access only until this is done (compose/start-minio.sh): `make` ends by stopping the
server, which is then started again without it.
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

from shared.records import Buckets
from shared.settings import Settings
from worker.credential_set import parse_users
from worker.forgery_probe import forged_keys
from worker.server_users import PROBE_PREFIX, ServerUser, minio_policies

POLICY_PREFIX = "rowdrop-"


class MinioUsers:
    """The users that `MINIO_USERS` names.  Raises `InvalidCredentials` for what it cannot parse."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._users = parse_users(settings.minio_users, "MINIO_USERS")
        self._http = PoolManager(timeout=Timeout(connect=2, read=15), retries=False)
        root = ServerUser(settings.minio_root_user, settings.minio_root_password)
        self._root = self._client(root)
        self._admin = MinioAdmin(
            endpoint=urlsplit(settings.minio_endpoint).netloc,
            credentials=StaticProvider(root.name, root.password),
            secure=settings.minio_endpoint.startswith("https://"),
            http_client=self._http,
        )

    def _client(self, user: ServerUser) -> Minio:
        url = urlsplit(self._settings.minio_endpoint)
        return Minio(
            url.netloc,
            user.name,
            user.password,
            secure=url.scheme == "https",
            region=self._settings.region,
            http_client=self._http,
        )

    def root_may_sign_in(self) -> bool:
        """Return whether MinIO was started with root's access.

        Raises `S3Error` if root's password is wrong or MinIO has not loaded its users yet,
        `urllib3.exceptions.HTTPError` if MinIO does not answer.
        """
        try:
            self._root.list_buckets()
        except S3Error as error:
            # MinIO says so of root while its access is off, and of any user that it does not know.
            if error.code == "InvalidAccessKeyId":
                self.unknown()  # MinIO says so of root even before it has loaded its users; then this raises
                return False
            raise
        return True

    def accepts_forged_writes(self) -> bool:
        """Return whether this MinIO accepts uploads without a valid signature, if no policy forbids them.

        Root has no policy.  It makes a bucket for this and removes it again.  Raises `S3Error`, `HTTPError`.
        """
        bucket = f"rowdrop-probe-{secrets.token_hex(6)}"
        endpoint, region = self._settings.minio_endpoint, self._settings.region
        self._root.make_bucket(bucket, region)
        try:
            forged = forged_keys(endpoint, self._settings.minio_root_user, bucket, region, PROBE_PREFIX)
            for key in forged:
                self._root.remove_object(bucket, key)
        finally:
            self._root.remove_bucket(bucket)
        return bool(forged)

    def make(self, restart_wait_s: float) -> None:
        """Make all users and policies, and remove the users of earlier credentials.

        Then stop the server, unless root's access is to be kept, and return when it is back without it.  Raises
        `MinioAdminException`, `MinioException`, `HTTPError`, the last two if it is not back within `restart_wait_s`.
        """
        policies = minio_policies(Buckets(self._settings.source_bucket, self._settings.output_bucket))
        for role, user in self._users.items():
            policy = POLICY_PREFIX + role
            self._admin.policy_add(policy, policy=policies[role])
            self._admin.user_add(user.name, user.password)
            self._admin.policy_set(policy, user=user.name)
        for name in self._outdated():
            self._admin.user_remove(name)
        if not self._settings.keeps_root_access:
            self._admin.service_stop()
            self._wait_until_root_may_not_sign_in(restart_wait_s)

    def _wait_until_root_may_not_sign_in(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        problem: Exception = MinioException("MinIO did not start again without root's access")
        while time.monotonic() < until:
            try:
                if not self.root_may_sign_in():
                    return
            except (HTTPError, MinioException) as error:  # it stops, or starts
                problem = error
            time.sleep(0.1)
        raise problem

    def unknown(self) -> list[str]:
        """Return the roles whose user MinIO does not know, or not with this password.

        Raises `S3Error`, `urllib3.exceptions.HTTPError`.
        """
        return [role for role, user in self._users.items() if not self._is_known(user)]

    def _is_known(self, user: ServerUser) -> bool:
        try:
            self._client(user).list_buckets()
        except S3Error as error:
            if error.code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
                return False
            if error.code != "AccessDenied":
                raise
        return True

    def _outdated(self) -> list[str]:
        current = {user.name for user in self._users.values()}
        known: dict[str, dict[str, str]] = json.loads(self._admin.user_list() or "{}")
        return [
            name
            for name, user in known.items()
            if user.get("policyName", "").startswith(POLICY_PREFIX) and name not in current
        ]
