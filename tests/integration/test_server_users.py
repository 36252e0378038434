"""MinIO and Redis with Rowdrop's users: forged writes are rejected, and least privilege holds."""

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, S3Error
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from local.ports import HOST, find_free_port, is_port_free
from local.servers import (
    UNUSED_ORIGIN,
    MinioOptions,
    MinioPorts,
    MinioServer,
    RedisAddress,
    RedisServer,
    find_minio,
)
from shared.formats.records import Buckets
from shared.formats.source_keys import PROBE_PREFIX
from shared.progress.leases import Lease
from shared.redis_keys import (
    ACTIVE_READS,
    CHANGE_VERSIONS,
    FAST_EVENTS,
    ISOLATED_USERS,
    LAST_PUBLISH,
    LOSS_SIGNALS,
    PAGES,
    PENDING_RESULTS,
    TRUST_STATE,
    UNPACK_LEASE,
    WRITER_LEASE,
)
from shared.s3.objects import open_store
from shared.settings import Settings
from tests.forged import UploadForger, send_unsigned, upload_with_unsigned_trailer
from worker.commands.init import Initializer
from worker.commands.provisioning.credential_set import (
    MINIO_ROLES,
    PROCESSES,
    REDIS_ROLES,
    Credentials,
    format_users,
)
from worker.commands.provisioning.instructions import UnknownUsers, format_policies
from worker.commands.provisioning.minio_users import MinioUsers
from worker.commands.provisioning.server_users import (
    REDIS_RULES,
    digest_users,
    format_redis_acl,
    minio_policies,
)
from worker.services.clients import ServerClients
from worker.services.container import Services
from worker.source.metrics import MinioMetrics

BUCKETS = Buckets("src-data", "processed-data")
CSV = b"first_name,last_name,birthts\nIvan,Ivanov,946674000000\n"


@dataclass
class SecuredServers:
    """Servers as ./run.sh starts them, after `rowdrop init` has created the users."""

    credentials: Credentials
    minio: MinioServer
    redis: RedisServer

    def settings(self, process: str = "init") -> Settings:
        return Settings(
            self.minio.endpoint,
            *self.credentials.minio[process],
            self.credentials.redis_urls[process],
            minio_root_user=self.credentials.root.name,
            minio_root_password=self.credentials.root.password,
            minio_users=format_users(self.credentials.minio),
        )

    def client(self, role: str) -> Minio:
        user = self.credentials.root if role == "root" else self.credentials.minio[role]
        return Minio(
            urlsplit(self.minio.endpoint).netloc,
            user.name,
            user.password,
            secure=False,
            region="us-east-1",
        )

    def admin(self, role: str) -> MinioAdmin:
        user = self.credentials.root if role == "root" else self.credentials.minio[role]
        provider = StaticProvider(user.name, user.password)
        return MinioAdmin(
            endpoint=urlsplit(self.minio.endpoint).netloc, credentials=provider, secure=False
        )

    def connect(self, role: str) -> Any:  # noqa: ANN401  redis-py's responses have no types
        return Redis.from_url(self.credentials.redis_urls[role], socket_timeout=5)

    def keys(self) -> set[str]:
        """Return the keys of all objects in both buckets, as the user for people lists them."""
        client = self.client("drop")
        return {
            str(info.object_name)
            for bucket in (BUCKETS.source, BUCKETS.output)
            for info in client.list_objects(bucket, recursive=True)
        }


def create_servers(folder: Path) -> SecuredServers:
    """Return servers with new credentials, which the caller must start."""
    redis_port = find_free_port()
    credentials = Credentials.complete({}, {}, f"127.0.0.1:{redis_port}", time.time())
    health = credentials.redis["health"]
    events = credentials.redis["minio"]
    redis = RedisServer(folder / "redis", redis_port, health, format_redis_acl(credentials.redis))
    minio = MinioServer(
        folder / "minio",
        MinioPorts(find_free_port(), find_free_port()),
        credentials.root,
        RedisAddress(HOST, redis_port, events.name, events.password),
        MinioOptions(
            find_minio(), digest_users(credentials.minio, BUCKETS), metrics_are_public=False
        ),
    )
    return SecuredServers(credentials, minio, redis)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServers]:
    servers = create_servers(tmp_path_factory.mktemp("guarded"))
    with servers.redis, servers.minio:
        services = Services(ServerClients(servers.settings()))
        Initializer(services).run()
        services.close()
        servers.client("drop").put_object(BUCKETS.source, "0001.csv", io.BytesIO(CSV), len(CSV))
        yield servers


# -- forged writes ---------------------------------------------------------------------------------
@pytest.mark.parametrize("role", ["root", *MINIO_ROLES])
@pytest.mark.parametrize("bucket", (BUCKETS.source, BUCKETS.output))
def test_minio_policies_refuse_forged_writes_with_any_key(
    servers: SecuredServers, role: str, bucket: str
) -> None:
    user = servers.credentials.root if role == "root" else servers.credentials.minio[role]
    before = servers.keys()
    for kind, reply in (
        UploadForger(servers.minio.endpoint, user.name).send_all(bucket, "forged.csv").items()
    ):
        assert 400 <= reply.status < 500, (kind, reply)
    assert servers.keys() == before


WRITABLE = {
    "worker": (BUCKETS.output, "images/x.png"),
    "publisher": (BUCKETS.output, "output.csv"),
    "api": (BUCKETS.source, "x.csv"),
    "loader": (BUCKETS.source, "x.csv"),
    "drop": (BUCKETS.source, "x.csv"),
    "init": (BUCKETS.source, f"{PROBE_PREFIX}x"),
}
"""A bucket and key to which each user may write."""


@pytest.mark.parametrize("role", WRITABLE)
def test_minio_policies_refuse_uploads_with_unsigned_trailer(
    servers: SecuredServers, role: str
) -> None:
    """The policy denies such an upload even with a valid signature, in every version of MinIO."""
    bucket, key = WRITABLE[role]
    user = servers.credentials.minio[role]
    reply = upload_with_unsigned_trailer(
        servers.minio.endpoint, user.name, user.password, bucket, key
    )
    assert (reply.status, b"<Code>AccessDenied</Code>" in reply.body) == (403, True)
    client = servers.client(role)
    client.put_object(
        bucket, f"{key}.other" if bucket == BUCKETS.source else key, io.BytesIO(CSV), len(CSV)
    )


@pytest.mark.parametrize(
    "role", [role for role in MINIO_ROLES if role in {"api", "loader", "drop"}]
)
def test_minio_policies_allow_signed_uploads(servers: SecuredServers, role: str) -> None:
    client = servers.client(role)
    client.put_object(BUCKETS.source, f"by-{role}.csv", io.BytesIO(CSV), len(CSV))
    assert client.get_object(BUCKETS.source, f"by-{role}.csv").read() == CSV
    client.remove_object(BUCKETS.source, f"by-{role}.csv")


def test_minio_policies_allow_recorded_image_copies(servers: SecuredServers) -> None:
    servers.client("drop").put_object(BUCKETS.source, "copied.png", io.BytesIO(b"x"), 1)
    settings = servers.settings("worker")
    image = open_store(settings, BUCKETS.source).get_info("copied.png")
    assert image is not None
    output = open_store(settings, BUCKETS.output)
    key = "images/copied.png"
    output.copy_from(BUCKETS.source, "copied.png", key, image.etag, if_match=True)
    pages = output.list_objects(folder="images", with_source_etags=True)
    (listed,) = (info for page in pages for info in page if info.key == key)
    assert listed == output.get_info(key)
    assert listed.source_etag == image.etag
    output.delete(key)
    servers.client("drop").remove_object(BUCKETS.source, "copied.png")


def test_minio_policies_allow_api_to_read_catalog(servers: SecuredServers) -> None:
    """Without it an upload of a bundle would get no answer."""
    put(servers.client("worker"), BUCKETS.output, "bundles.json")
    assert servers.client("api").get_object(BUCKETS.output, "bundles.json").status == 200
    servers.client("worker").remove_object(BUCKETS.output, "bundles.json")


def test_minio_server_answers_no_foreign_origin(servers: SecuredServers) -> None:
    for origin, is_answered in (("http://evil.example", False), (UNUSED_ORIGIN, True)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        reply = send_unsigned(
            servers.minio.endpoint, "OPTIONS", f"/{BUCKETS.source}/x.csv", headers=headers
        )
        assert ("access-control-allow-origin" in reply.headers) is is_answered


# -- root ------------------------------------------------------------------------------------------
def test_init_disables_root_sign_in(servers: SecuredServers) -> None:
    with pytest.raises(S3Error) as refused:
        servers.client("root").list_buckets()
    assert refused.value.code == "InvalidAccessKeyId"
    with pytest.raises(MinioAdminException):
        servers.admin("root").info()


def test_init_keeps_root_disabled_after_restart(tmp_path: Path) -> None:
    servers = create_servers(tmp_path)
    with servers.redis, servers.minio:
        for _ in range(2):
            services = Services(ServerClients(servers.settings()))
            Initializer(services).run()
            services.close()
            servers.minio.kill()
            servers.minio.start()
            servers.minio.wait_ready()
            assert not MinioUsers(servers.settings()).is_root_enabled()


def test_init_replaces_renewed_users(tmp_path: Path) -> None:
    servers = create_servers(tmp_path)
    with servers.redis, servers.minio:
        services = Services(ServerClients(servers.settings()))
        Initializer(services).run()
        services.close()
        before = servers.client("drop")
        servers.credentials = Credentials.complete(
            {},
            {"REDIS_USERS": format_users(servers.credentials.redis)},
            f"127.0.0.1:{servers.redis.port}",
            0.0,
        )
        services = Services(ServerClients(servers.settings()))
        with pytest.raises(UnknownUsers, match="users-made"):
            # MinIO has not been restarted with root access, and no other user may create users.
            Initializer(services).run()
        servers.minio.stop()
        servers.minio.root = servers.credentials.root
        users_id = digest_users(servers.credentials.minio, BUCKETS)
        servers.minio.options = replace(servers.minio.options, users_id=users_id)
        servers.minio.start()
        servers.minio.wait_ready()
        Initializer(services).run()
        services.close()
        assert servers.client("drop").bucket_exists(BUCKETS.source)
        with pytest.raises(S3Error) as refused:
            before.list_buckets()
        assert refused.value.code == "InvalidAccessKeyId"


def test_minio_server_killed_during_init_starts_with_root(tmp_path: Path) -> None:
    servers = create_servers(tmp_path)
    with servers.redis, servers.minio:
        assert MinioUsers(servers.settings()).is_root_enabled()
        servers.minio.kill()
        assert is_port_free(servers.minio.port)
        assert not (servers.minio.folder / "users-made").exists()
        servers.minio.start()
        servers.minio.wait_ready()
        assert MinioUsers(servers.settings()).is_root_enabled()
        # After SIGTERM MinIO exits with 0, as after the stop by `rowdrop init`.
        servers.minio.stop()
        assert not (servers.minio.folder / "users-made").exists()


# -- denied operations in MinIO --------------------------------------------------------------------
ADMIN: dict[str, Callable[[MinioAdmin], object]] = {
    "read the state of the server": lambda admin: admin.info(),
    "create a user": lambda admin: admin.user_add("intruder", "intruder-secret"),
    "create another access key": lambda admin: admin.add_service_account(
        access_key="further-key", secret_key="further-secret"
    ),
    "list users": lambda admin: admin.user_list(),
    "create a policy": lambda admin: admin.policy_add(
        "all", policy={"Version": "2012-10-17", "Statement": []}
    ),
    "attach a policy": lambda admin: admin.policy_set("consoleAdmin", user="intruder"),
    "change the configuration": lambda admin: admin.config_set("api", {"root_access": "on"}),
    "restart the server": lambda admin: admin.service_restart(),
    "stop the server": lambda admin: admin.service_stop(),
}
FORBIDDEN_TO_ALL: dict[str, Callable[[Minio], object]] = {
    "remove the source bucket": lambda minio: minio.remove_bucket(BUCKETS.source),
    "remove the output bucket": lambda minio: minio.remove_bucket(BUCKETS.output),
    "set the policy of the source bucket": lambda minio: minio.set_bucket_policy(
        BUCKETS.source, "{}"
    ),
    "create a bucket": lambda minio: minio.make_bucket("another-bucket"),
}


def put(minio: Minio, bucket: str, key: str) -> None:
    minio.put_object(bucket, key, io.BytesIO(b"x"), 1)


FORBIDDEN: dict[str, dict[str, Callable[[Minio], object]]] = {
    "listener": {
        "read a dropped file": lambda minio: minio.get_object(BUCKETS.source, "0001.csv"),
        "drop a file": lambda minio: put(minio, BUCKETS.source, "x.csv"),
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
    },
    "worker": {
        "drop a file": lambda minio: put(minio, BUCKETS.source, "x.csv"),
        "delete a dropped file": lambda minio: minio.remove_object(BUCKETS.source, "0001.csv"),
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
        "write the manifest": lambda minio: put(minio, BUCKETS.output, "manifest.parquet"),
    },
    "publisher": {
        "read a dropped file": lambda minio: minio.get_object(BUCKETS.source, "0001.csv"),
        "list the source bucket": lambda minio: list(minio.list_objects(BUCKETS.source)),
        "write an image": lambda minio: put(minio, BUCKETS.output, "images/x.png"),
    },
    "api": {
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
        "delete output.csv": lambda minio: minio.remove_object(BUCKETS.output, "output.csv"),
        "read the manifest": lambda minio: minio.get_object(BUCKETS.output, "manifest.parquet"),
        "read an unpacked bundle": lambda minio: minio.get_object(
            BUCKETS.output, ".bundles/x/index"
        ),
        "change the notification rules": lambda minio: minio.delete_bucket_notification(
            BUCKETS.source
        ),
    },
    "loader": {
        "read output.csv": lambda minio: minio.get_object(BUCKETS.output, "output.csv"),
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
    },
    "drop": {
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
        "write an image": lambda minio: put(minio, BUCKETS.output, "images/x.png"),
        "change the notification rules": lambda minio: minio.delete_bucket_notification(
            BUCKETS.source
        ),
    },
    "init": {
        "drop a file": lambda minio: put(minio, BUCKETS.source, "x.csv"),
        "read a dropped file": lambda minio: minio.get_object(BUCKETS.source, "0001.csv"),
        "write output.csv": lambda minio: put(minio, BUCKETS.output, "output.csv"),
    },
    "metrics": {
        "list the source bucket": lambda minio: list(minio.list_objects(BUCKETS.source)),
        "read a dropped file": lambda minio: minio.get_object(BUCKETS.source, "0001.csv"),
        "drop a file": lambda minio: put(minio, BUCKETS.source, "x.csv"),
    },
}


@pytest.mark.parametrize("role", MINIO_ROLES)
@pytest.mark.parametrize("action", ADMIN)
def test_minio_policies_forbid_administration(
    servers: SecuredServers, role: str, action: str
) -> None:
    with pytest.raises(MinioAdminException, match="Status: 403"):
        ADMIN[action](servers.admin(role))


@pytest.mark.parametrize("role", MINIO_ROLES)
def test_minio_policies_forbid_own_password_change(servers: SecuredServers, role: str) -> None:
    with pytest.raises(MinioAdminException, match="Status: 403"):
        servers.admin(role).user_add(servers.credentials.minio[role].name, "another-password")
    assert MinioUsers(servers.settings()).find_unknown_roles() == []


@pytest.mark.parametrize(
    ("role", "action"),
    [(role, action) for role in MINIO_ROLES for action in (*FORBIDDEN_TO_ALL, *FORBIDDEN[role])],
)
def test_minio_policies_forbid_actions_outside_role(
    servers: SecuredServers, role: str, action: str
) -> None:
    forbidden = FORBIDDEN_TO_ALL | FORBIDDEN[role]
    with pytest.raises(S3Error) as refused:
        forbidden[action](servers.client(role))
    assert refused.value.code == "AccessDenied"


def test_minio_metrics_need_the_token(servers: SecuredServers) -> None:
    assert MinioMetrics(servers.minio.endpoint, "").read() is None
    metrics = MinioMetrics(servers.minio.endpoint, servers.credentials.prometheus_token)
    assert metrics.read() is not None


# -- denied operations in Redis --------------------------------------------------------------------
FORBIDDEN_COMMANDS = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET dir", "CONFIG SET dir /tmp", "ACL LIST",
    "ACL SETUSER intruder on", "SHUTDOWN NOSAVE", "SAVE", "BGREWRITEAOF", "DEBUG SLEEP 0",
    "MONITOR", "CLIENT LIST", "CLIENT KILL 1:1", "REPLICAOF NO ONE", "INFO", "INFO all",
    "MODULE LIST", "SWAPDB 0 1", "SLOWLOG GET", "SCRIPT FLUSH", "FUNCTION FLUSH",
)  # fmt: skip
STATE = (
    CHANGE_VERSIONS,
    PENDING_RESULTS,
    WRITER_LEASE,
    LAST_PUBLISH,
    TRUST_STATE,
    PAGES,
    ACTIVE_READS,
    ISOLATED_USERS,
    LOSS_SIGNALS,
    UNPACK_LEASE,
)


@pytest.mark.parametrize("role", REDIS_ROLES)
@pytest.mark.parametrize("command", FORBIDDEN_COMMANDS)
def test_redis_acl_forbids_administration(servers: SecuredServers, role: str, command: str) -> None:
    with (
        servers.connect(role) as client,
        pytest.raises((NoPermissionError, ResponseError)) as refused,
    ):
        client.execute_command(*command.split())
    assert "no permissions" in str(refused.value).lower() or "not allowed" in str(refused.value)


@pytest.mark.parametrize("role", ["api", "flower", "init", "minio", "health"])
@pytest.mark.parametrize("key", STATE)
def test_redis_acl_lets_only_pipeline_change_state(
    servers: SecuredServers, role: str, key: str
) -> None:
    writes = (
        ["SET", key, "x"],
        ["DEL", key],
        ["HSET", key, "a", "b"],
        ["EVAL", f"redis.call('DEL', '{key}')", "0"],
    )
    with servers.connect(role) as client:
        for write in writes:
            with pytest.raises((NoPermissionError, ResponseError)):
                client.execute_command(*write)


def test_redis_acl_lets_minio_only_push_events(servers: SecuredServers) -> None:
    with servers.connect("minio") as client:
        client.rpush(FAST_EVENTS, "an event")
        for refused in (
            ["RPUSH", "events", "x"],
            ["LRANGE", FAST_EVENTS, "0", "-1"],
            ["DEL", FAST_EVENTS],
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*refused)
    with servers.connect("worker") as client:
        client.delete(FAST_EVENTS)


def test_redis_acl_lets_api_only_push_events(servers: SecuredServers) -> None:
    with servers.connect("api") as client:
        client.rpush(FAST_EVENTS, "an event")
        assert client.llen(FAST_EVENTS) > 0
        for command in ("DEL", "LPOP", "LPUSH", "LTRIM", "SET", "RPOP", "LREM"):
            arguments = ["x", "1"] if command in {"SET", "LPUSH", "LREM"} else ["0", "1"]
            with pytest.raises((NoPermissionError, ResponseError), match="permission"):
                client.execute_command(command, FAST_EVENTS, *arguments)
    with servers.connect("worker") as client:
        client.delete(FAST_EVENTS)


@pytest.mark.parametrize("role", ["worker", "publisher"])
def test_redis_acl_lets_pipeline_hold_leases(servers: SecuredServers, role: str) -> None:
    with servers.connect(role) as client:
        lease = Lease(client, UNPACK_LEASE)
        with lease.hold() as is_held:
            assert is_held
            lease.renew()
        assert not lease.is_held()


def test_redis_acl_forbids_flower_to_send_tasks(servers: SecuredServers) -> None:
    """Flower cannot enqueue a task directly, nor as an unacknowledged message to be redelivered."""
    commands = (
        ["LPUSH", "events", "x"],
        ["LPUSH", "bulk", "x"],
        ["HSET", "unacked", "tag", "x"],
        ["ZADD", "unacked_index", "1", "tag"],
    )
    with servers.connect("flower") as client:
        for command in commands:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


@pytest.mark.parametrize("role", ["api", "flower", "init"])
def test_redis_acl_protects_queue_key_types(servers: SecuredServers, role: str) -> None:
    """Workers fail if the key of a queue or of its bindings holds a value of another type."""
    keys = (
        "events", "bulk", "unacked", "unacked_index", "_kombu.binding.bulk",
        "_kombu.binding.events", "_kombu.binding_permanent.bulk", "_kombu.binding_deadlines",
        "_kombu.binding.celery.pidbox",
    )  # fmt: skip
    with servers.connect(role) as client:
        for key in keys:
            script = f"redis.call('SET', '{key}', 'x')"
            for write in (
                ["SET", key, "x"],
                ["RENAME", "health", key],
                ["RPUSH", key, "x"],
                ["EVAL", script, "0"],
            ):
                with pytest.raises((NoPermissionError, ResponseError)) as refused:
                    client.execute_command(*write)
                assert "permission" in str(refused.value).lower()
        for key in ("events", "bulk"):
            with pytest.raises(NoPermissionError):
                client.delete(key)


def test_redis_acl_disables_default_user(servers: SecuredServers) -> None:
    with Redis(port=servers.redis.port) as client, pytest.raises(AuthenticationError):
        client.ping()


# -- completeness ----------------------------------------------------------------------------------
def test_minio_policies_tests_cover_every_role() -> None:
    assert FORBIDDEN.keys() == set(MINIO_ROLES)
    assert {process for process, kinds in PROCESSES.items() if "minio" in kinds} <= FORBIDDEN.keys()


def test_init_prints_policies_that_it_creates(servers: SecuredServers) -> None:
    printed = format_policies(servers.settings())
    for role, policy in minio_policies(BUCKETS).items():
        assert f"# {role}\n{json.dumps(policy, indent=2)}" in printed
    for rules in REDIS_RULES.values():
        assert rules in printed
