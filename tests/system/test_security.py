"""Security tests of a running Rowdrop: requests without credentials, and least privilege.

The latter checks which credentials each process has.
"""

import http.client
import io
import re

import psutil
import pytest
from minio import Minio
from minio.error import S3Error
from redis import Redis
from redis.exceptions import NoPermissionError

from shared.redis_keys import CHANGE_VERSIONS
from tests.forged import UploadForger, send_unsigned
from tests.system.running import RunShProcess, find_processes, list_processes, wait_until
from worker.commands.provisioning.credential_set import parse_users

CSV = b"first_name,last_name,birthts\nIvan,Ivanov,946674000000\n"
MINIO_USER = {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"}
CREDENTIALS_BY_PROCESS = {
    "worker.listener": {*MINIO_USER, "REDIS_URL", "MINIO_PROMETHEUS_TOKEN"},
    "worker.app": {*MINIO_USER, "REDIS_URL", "MINIO_PROMETHEUS_TOKEN"},
    "worker.publisher": {*MINIO_USER, "REDIS_URL"},
    "worker.commands.flower_conf flower": {"REDIS_URL", "FLOWER_USER", "FLOWER_PASSWORD"},
    "api.asgi": {*MINIO_USER, "REDIS_URL", "GENERATED_API_TOKEN"},
    "minio server": {
        "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_NOTIFY_REDIS_USER_FAST",
        "MINIO_NOTIFY_REDIS_PASSWORD_FAST",
    },
    "redis.conf": set(),
    "supervisor.supervisord": set(),
}  # fmt: skip
"""Maps words in a process's command line to the credentials in its environment."""
CREDENTIAL = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|USERS?(_|$)|REDIS_URL")
OTHER = {"USER", "USERNAME", "SUDO_USER"}


def test_processes_hold_only_their_own_credentials(rowdrop: RunShProcess) -> None:
    secrets = _secrets(rowdrop)
    checked_pids = set()
    for words, expected in CREDENTIALS_BY_PROCESS.items():
        for process in find_processes(rowdrop.folder, words):
            environment = process.environ()
            credentials = {name for name in environment if CREDENTIAL.search(name)} - OTHER
            assert credentials == expected, words
            own_values = {environment[name] for name in expected}
            text = " ".join(environment.values())
            others = [
                secret
                for secret in secrets
                if secret in text and not any(secret in value for value in own_values)
            ]
            assert others == [], words
            assert not [secret for secret in secrets if secret in " ".join(process.cmdline())]
            checked_pids.add(process.pid)
    shells = {
        process.pid
        for process in list_processes(rowdrop.folder)
        if process.name() in {"sh", "bash", "run.sh"}
    }
    run = psutil.Process(rowdrop.process.pid)
    started = {child.pid for child in run.children(recursive=True)} - {run.pid} - shells
    assert started <= checked_pids | {pid for pid in started if _is_part_of(pid, checked_pids)}


def _is_part_of(pid: int, checked_pids: set[int]) -> bool:
    return any(parent.pid in checked_pids for parent in psutil.Process(pid).parents())


def _secrets(rowdrop: RunShProcess) -> list[str]:
    """Return every password and token of this Rowdrop."""
    known = rowdrop.credentials
    users = [*parse_users(known["MINIO_USERS"], "MINIO_USERS").values()]
    users += parse_users(known["REDIS_USERS"], "REDIS_USERS").values()
    single = ("MINIO_ROOT_PASSWORD", "FLOWER_PASSWORD", "GENERATED_API_TOKEN")
    return [*(user.password for user in users), *(known[name] for name in single)]


def test_logs_contain_no_secret(rowdrop: RunShProcess, s3: Minio) -> None:
    s3.put_object("src-data", "logged.csv", io.BytesIO(CSV), len(CSV))
    wait_until(lambda: "logged" in rowdrop.list_users())
    secrets = _secrets(rowdrop)
    logs = {
        file.name: file.read_text(errors="replace") for file in (rowdrop.folder / "logs").iterdir()
    }
    assert len(logs) > 8
    leaked_secrets = [
        (name, secret) for name, text in logs.items() for secret in secrets if secret in text
    ]
    assert leaked_secrets == []
    assert not [secret for secret in secrets if secret in rowdrop.output]


def test_rowdrop_ignores_forged_writes(rowdrop: RunShProcess, s3: Minio) -> None:
    s3.put_object("src-data", "before.csv", io.BytesIO(CSV), len(CSV))
    wait_until(lambda: "before" in rowdrop.list_users())
    known = rowdrop.credentials
    names = [user.name for user in parse_users(known["MINIO_USERS"], "MINIO_USERS").values()]
    for access_key in (*names, known["MINIO_ROOT_USER"], "rowdrop"):
        forger = UploadForger(known["MINIO_ENDPOINT"], access_key)
        for bucket, key in (("src-data", "forged.csv"), ("processed-data", "output.csv")):
            for kind, reply in forger.send_all(bucket, key).items():
                assert 400 <= reply.status < 500, (kind, reply)
    s3.put_object("src-data", "after.csv", io.BytesIO(CSV), len(CSV))
    wait_until(lambda: "after" in rowdrop.list_users())
    assert "forged" not in rowdrop.list_users()
    assert rowdrop.is_healthy()


def test_minio_server_answers_no_foreign_origin_when_running(rowdrop: RunShProcess) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    reply = send_unsigned(
        rowdrop.credentials["MINIO_ENDPOINT"], "OPTIONS", "/src-data/x.csv", headers=headers
    )
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "header", [{"X-Forwarded-For": "203.0.113.9"}, {"Via": "1.1 proxy"}, {"Host": "192.0.2.7"}]
)
def test_api_requires_token_for_remote_clients(
    rowdrop: RunShProcess, method: str, header: dict[str, str]
) -> None:
    path = "/data" if method in {"GET", "POST"} else "/files/from-elsewhere.csv"
    token = {"Authorization": f"Bearer {rowdrop.credentials['GENERATED_API_TOKEN']}"}

    def send(headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(rowdrop.credentials["API_PORT"]), timeout=10
        )
        try:
            connection.request(method, path, CSV if method == "PUT" else None, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    assert send(header) == 401
    assert send({**header, **token}) in {200, 202, 404}


def test_api_credentials_open_nothing_else(rowdrop: RunShProcess) -> None:
    known = rowdrop.read_credentials_of("api")
    minio = rowdrop.open_client_as("api")
    with pytest.raises(S3Error) as refused:
        minio.put_object("processed-data", "output.csv", io.BytesIO(b"x"), 1)
    assert refused.value.code == "AccessDenied"
    with Redis.from_url(known["REDIS_URL"]) as client:
        for command in (
            ["FLUSHALL"],
            ["CONFIG", "GET", "dir"],
            ["ACL", "LIST"],
            ["DEL", CHANGE_VERSIONS],
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
