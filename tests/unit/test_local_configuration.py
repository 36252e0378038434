"""`local.configuration`: settings, kept secrets and ports of run.sh."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.configuration import PORTS, configure, for_minio, from_outside, keep, kept_in, without_credentials
from local.errors import CannotRun
from local.ports import free_port
from worker.credential_set import SECRET_SETTINGS


def silent(_: str) -> None:
    """Discard the report."""


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_ports() -> dict[str, str]:
    return {name: str(free_port()) for name in PORTS}


def test_everything_is_generated_when_nothing_is_given() -> None:
    configuration = configure({}, {}, silent)
    values = configuration.values
    assert values["MINIO_ENDPOINT"] == f"http://127.0.0.1:{values['MINIO_PORT']}"
    assert configuration.settings_of("worker")["REDIS_URL"].endswith(f"@127.0.0.1:{values['REDIS_PORT']}/0")
    assert configuration.settings_of("worker")["MINIO_ENDPOINT"] == values["MINIO_ENDPOINT"]
    assert not SECRET_SETTINGS & values.keys()
    assert len({values[name] for name in PORTS}) == len(PORTS)


def test_two_copies_have_no_secret_in_common() -> None:
    first, second = (configure({}, {}, silent).credentials.to_keep() for _ in range(2))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_the_second_run_has_the_secrets_and_ports_of_the_first(tmp_path: Path) -> None:
    first = configure(free_ports(), {}, silent)
    keep(first, tmp_path / ".env")
    second = configure({}, kept_in(tmp_path / ".env"), silent)
    assert second.values == first.values
    assert second.credentials.to_keep() == first.credentials.to_keep()
    assert {process: second.settings_of(process) for process in ("api", "flower")} == {
        process: first.settings_of(process) for process in ("api", "flower")
    }


def test_the_kept_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    keep(configure({}, {}, silent), tmp_path / ".env")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_a_line_removed_from_the_kept_file_is_made_anew_and_the_rest_stays(tmp_path: Path) -> None:
    first = configure(free_ports(), {}, silent)
    kept = {name: value for name, value in first.credentials.to_keep().items() if name != "FLOWER_PASSWORD"}
    second = configure({}, kept, silent)
    assert second.credentials.flower.password not in {"", first.credentials.flower.password}
    assert second.credentials.redis == first.credentials.redis


def test_a_kept_port_that_is_taken_is_replaced_and_told(taken: int) -> None:
    told: list[str] = []
    values = configure({}, {"API_PORT": str(taken)}, told.append).values
    assert values["API_PORT"] != str(taken)
    assert any(f"Port {taken} is in use: API_PORT is {values['API_PORT']}" in line for line in told)


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_it(taken: int) -> None:
    with pytest.raises(CannotRun, match=f"port {taken} is in use.*FLOWER_PORT"):
        configure({"FLOWER_PORT": str(taken)}, {}, silent)


def test_one_port_for_two_things_is_an_error() -> None:
    port = str(free_port())
    with pytest.raises(CannotRun, match=f"MINIO_PORT={port}"):
        configure({"API_PORT": port, "MINIO_PORT": port}, {}, silent)


@pytest.mark.parametrize("value", ["http", "-1", "0", "65536", "80.5"])
def test_what_is_no_port_is_an_error(value: str) -> None:
    with pytest.raises(CannotRun, match="API_PORT"):
        configure({"API_PORT": value}, {}, silent)


@pytest.mark.parametrize(
    "url", ["rediss://h/0", "unix:///tmp/s", "redis://h/1", "redis://h/0?ssl=true", "redis:///0", "h:6379"]
)
def test_a_redis_that_minio_cannot_push_to_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(CannotRun, match=r"plain TCP and into database 0"):
        configure({"REDIS_URL": url}, {}, silent)


def test_the_refusal_does_not_show_the_password() -> None:
    with pytest.raises(CannotRun) as refusal:
        configure({"REDIS_URL": "rediss://:hunter2@h/0"}, {}, silent)
    assert "hunter2" not in str(refusal.value)


def test_a_redis_given_is_not_started_and_minio_is_told_of_it() -> None:
    configuration = configure({"REDIS_URL": "redis://me:p%40ss@redis.example"}, {}, silent)
    address = configuration.redis_of_minio
    assert not configuration.own_redis
    assert (address.host, address.port, address.user, address.password) == ("redis.example", 6379, "me", "p@ss")


def test_a_minio_given_needs_its_keys() -> None:
    with pytest.raises(CannotRun, match="MINIO_ACCESS_KEY"):
        configure({"MINIO_ENDPOINT": "http://minio.example"}, {}, silent)


def test_secrets_of_servers_that_are_not_ours_are_not_kept(tmp_path: Path) -> None:
    theirs = {
        "MINIO_ENDPOINT": "http://minio.example",
        "MINIO_ACCESS_KEY": "them",
        "MINIO_SECRET_KEY": "their-secret",
        "REDIS_URL": "redis://:their-password@redis.example/0",
        "MINIO_USERS": "api=for-api:their-second-secret",
        "REDIS_USERS": "api=for-api:their-second-password",
    }
    keep(configure(theirs, {}, silent), tmp_path / ".env")
    assert "their" not in (tmp_path / ".env").read_text()


def test_whoever_sources_the_kept_file_still_starts_our_servers(tmp_path: Path) -> None:
    keep(configure(free_ports(), {}, silent), tmp_path / ".env")
    kept = kept_in(tmp_path / ".env")
    configuration = configure(kept, kept, silent)
    assert configuration.own_minio
    assert configuration.own_redis
    assert configuration.credentials.tokens == {}  # the generated token is not a given one


def test_the_kept_file_of_an_earlier_version_gives_nobody_roots_credentials() -> None:
    earlier = {
        "MINIO_ROOT_USER": "rowdrop",
        "MINIO_ROOT_PASSWORD": "of-an-earlier-version",
        "MINIO_ACCESS_KEY": "rowdrop",
        "MINIO_SECRET_KEY": "of-an-earlier-version",
        "REDIS_URL": "redis://:of-an-earlier-version@127.0.0.1:6379/0",
    }
    for given in ({}, earlier):
        configuration = configure(given, earlier, silent)
        assert configuration.own_redis
        credentials = configuration.credentials
        assert {user.name.partition("-")[0] for user in (credentials.root, credentials.minio["drop"])} == {
            "root",
            "drop",
        }
        assert "of-an-earlier-version" not in str([credentials.minio, credentials.redis_urls])


def test_a_secret_may_be_given_anew_for_the_same_access_key(tmp_path: Path) -> None:
    first = {"MINIO_ACCESS_KEY": "alice", "MINIO_SECRET_KEY": "first-secret"}
    keep(configure(free_ports() | first, {}, silent), tmp_path / ".env")
    second = first | {"MINIO_SECRET_KEY": "second-secret"}
    assert configure(second, kept_in(tmp_path / ".env"), silent).credentials.minio["drop"] == ("alice", "second-secret")


def test_the_kept_file_holds_what_people_need(tmp_path: Path) -> None:
    configuration = configure(free_ports(), {}, silent)
    keep(configuration, tmp_path / ".env")
    kept = kept_in(tmp_path / ".env")
    assert kept["MINIO_ACCESS_KEY"] == configuration.credentials.minio["drop"].name
    assert kept["GENERATED_API_TOKEN"] == configuration.settings_of("api")["GENERATED_API_TOKEN"]
    assert "REDIS_URL" not in kept


def test_what_processes_inherit_has_no_credentials() -> None:
    environment = {
        "PATH": "/bin", "MINIO_REGION": "eu-1", "MINIO_ROOT_PASSWORD_FILE": "/f", "MINIO_KMS_SECRET_KEY": "k",
        "REDIS_URL": "u", "API_TOKENS": "t", "GENERATED_API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s",
        "LOG_LEVEL": "INFO",
    }  # fmt: skip
    assert without_credentials(environment) == {"PATH": "/bin", "MINIO_REGION": "eu-1", "LOG_LEVEL": "INFO"}
    assert for_minio(environment) == {"MINIO_REGION": "eu-1", "MINIO_KMS_SECRET_KEY": "k"}


def test_a_root_password_too_short_for_minio_is_an_error() -> None:
    with pytest.raises(CannotRun, match="at least 8"):
        configure({"MINIO_ROOT_PASSWORD": "short"}, {}, silent)


def test_the_environment_wins_over_the_checkouts_file_and_empty_means_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=1\nREDIS_PORT=2\nFLOWER_PORT=\nLOG_LEVEL='a $b'\n")
    given = from_outside({"API_PORT": "3", "REDIS_PORT": ""}, tmp_path / ".env")
    assert given == {"API_PORT": "3", "LOG_LEVEL": "a $b"}


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-the-file\n")
    given = from_outside({"MINIO_SECRET_KEY_FILE": str(tmp_path / "secret")}, tmp_path / "no.env")
    assert given == {"MINIO_SECRET_KEY": "from-the-file"}


def test_a_secrets_file_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="REDIS_URL_FILE=/nowhere"):
        from_outside({"REDIS_URL_FILE": "/nowhere"}, tmp_path / "no.env")
