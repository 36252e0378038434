"""`local.configuration`: settings, kept secrets and ports of run.sh."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.banner import render_banner
from local.configuration import (
    DEFAULT_PORTS,
    OPTIONAL_PORTS,
    build_configuration,
    list_page_links,
    load_saved_settings,
    read_given_settings,
    remove_credentials,
    save_configuration,
    select_minio_settings,
)
from local.errors import StartupError
from local.ports import find_free_port
from local.readiness import check_external_servers
from worker.commands.provisioning.credential_set import SECRET_SETTINGS


def silent(_: str) -> None:
    """Discard the report."""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_ports() -> dict[str, str]:
    return {name: str(find_free_port()) for name in DEFAULT_PORTS}


def test_configuration_generates_everything_by_default() -> None:
    configuration = build_configuration({}, {}, silent)
    values = configuration.values
    assert values["MINIO_ENDPOINT"] == f"http://127.0.0.1:{values['MINIO_PORT']}"
    assert configuration.settings_of("worker")["REDIS_URL"].endswith(
        f"@127.0.0.1:{values['REDIS_PORT']}/0"
    )
    assert configuration.settings_of("worker")["MINIO_ENDPOINT"] == values["MINIO_ENDPOINT"]
    assert not SECRET_SETTINGS & values.keys()
    ports = {name: values[name] for name in DEFAULT_PORTS if name in values}
    assert ports.keys() == DEFAULT_PORTS.keys() - set(OPTIONAL_PORTS)
    assert len(set(ports.values())) == len(ports)


def test_configuration_secrets_differ_between_checkouts() -> None:
    first = build_configuration({}, {}, silent).credentials.settings_to_keep()
    second = build_configuration({}, {}, silent).credentials.settings_to_keep()
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_configuration_keeps_secrets_and_ports_of_first_run(tmp_path: Path) -> None:
    first = build_configuration(free_ports(), {}, silent)
    save_configuration(first, tmp_path / ".env")
    second = build_configuration({}, load_saved_settings(tmp_path / ".env"), silent)
    assert second.values == {
        name: value for name, value in first.values.items() if name not in OPTIONAL_PORTS
    }
    assert second.credentials.settings_to_keep() == first.credentials.settings_to_keep()
    assert {process: second.settings_of(process) for process in ("api", "flower")} == {
        process: first.settings_of(process) for process in ("api", "flower")
    }


def test_save_configuration_writes_private_file(tmp_path: Path) -> None:
    save_configuration(build_configuration({}, {}, silent), tmp_path / ".env")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_configuration_regenerates_removed_value_only(tmp_path: Path) -> None:
    first = build_configuration(free_ports(), {}, silent)
    saved = {
        name: value
        for name, value in first.credentials.settings_to_keep().items()
        if name != "FLOWER_PASSWORD"
    }
    second = build_configuration({}, saved, silent)
    assert second.credentials.flower.password not in {"", first.credentials.flower.password}
    assert second.credentials.redis == first.credentials.redis


def test_configuration_replaces_taken_saved_port(taken_port: int) -> None:
    reports: list[str] = []
    values = build_configuration({}, {"API_PORT": str(taken_port)}, reports.append).values
    assert values["API_PORT"] != str(taken_port)
    assert any(
        f"Port {taken_port} is in use: API_PORT is {values['API_PORT']}" in line for line in reports
    )


def test_configuration_refuses_taken_requested_port(taken_port: int) -> None:
    with pytest.raises(StartupError, match=f"port {taken_port} is in use.*FLOWER_PORT"):
        build_configuration({"FLOWER_PORT": str(taken_port)}, {}, silent)


def test_configuration_refuses_one_port_for_two_servers() -> None:
    port = str(find_free_port())
    with pytest.raises(StartupError, match=f"MINIO_PORT={port}"):
        build_configuration({"API_PORT": port, "MINIO_PORT": port}, {}, silent)


def test_configuration_starts_console_and_flower_only_on_request(tmp_path: Path) -> None:
    ports = {name: str(find_free_port()) for name in OPTIONAL_PORTS}
    asked = build_configuration(free_ports() | ports, {}, silent)
    save_configuration(asked, tmp_path / ".env")
    assert {name: asked.values[name] for name in ports} == ports
    for name, title in (("MINIO_CONSOLE_PORT", "Console"), ("FLOWER_PORT", "Flower")):
        assert f"  {title:<13} http://127.0.0.1:{ports[name]}" in render_banner(tmp_path, asked)
    assert list_page_links(asked.values) == (
        f"MinIO's console=http://127.0.0.1:{ports['MINIO_CONSOLE_PORT']},"
        f"Flower=http://127.0.0.1:{ports['FLOWER_PORT']}"
    )
    assert list_page_links(asked.values | {"PAGE_LINKS": "A=http://a"}) == "A=http://a"
    later = build_configuration({}, load_saved_settings(tmp_path / ".env"), silent)
    assert not later.values.keys() & ports.keys()
    assert list_page_links(later.values) == ""
    save_configuration(later, tmp_path / ".env")
    assert not load_saved_settings(tmp_path / ".env").keys() & ports.keys()
    banner = render_banner(tmp_path, later)
    assert "Console" not in banner
    assert "Flower" not in banner


@pytest.mark.parametrize("value", ["http", "-1", "0", "65536", "80.5"])
def test_configuration_refuses_invalid_port(value: str) -> None:
    with pytest.raises(StartupError, match="API_PORT"):
        build_configuration({"API_PORT": value}, {}, silent)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://h/0",
        "unix:///tmp/s",
        "redis://h/1",
        "redis://h/0?ssl=true",
        "redis:///0",
        "h:6379",
    ],
)
def test_configuration_refuses_redis_unreachable_for_minio(url: str) -> None:
    with pytest.raises(StartupError, match=r"plain TCP and into database 0"):
        build_configuration({"REDIS_URL": url}, {}, silent)


def test_configuration_refuses_invalid_port_of_redis() -> None:
    with pytest.raises(StartupError, match="port in REDIS_URL is not valid"):
        build_configuration({"REDIS_URL": "redis://:hunter2@h:99999/0"}, {}, silent)


def test_configuration_error_hides_password() -> None:
    with pytest.raises(StartupError) as refusal:
        build_configuration({"REDIS_URL": "rediss://:hunter2@h/0"}, {}, silent)
    assert "hunter2" not in str(refusal.value)


def test_configuration_uses_given_redis_for_minio_events() -> None:
    configuration = build_configuration(
        {"REDIS_URL": "redis://me:p%40ss@redis.example"}, {}, silent
    )
    address = configuration.event_redis
    assert not configuration.owns_redis
    assert (address.host, address.port) == ("redis.example", 6379)
    assert (address.user, address.password) == ("me", "p@ss")


def test_configuration_requires_keys_of_given_minio() -> None:
    with pytest.raises(StartupError, match="MINIO_ACCESS_KEY"):
        build_configuration({"MINIO_ENDPOINT": "http://minio.example"}, {}, silent)


def test_save_configuration_omits_secrets_of_external_servers(tmp_path: Path) -> None:
    external = {
        "MINIO_ENDPOINT": "http://minio.example",
        "MINIO_ACCESS_KEY": "them",
        "MINIO_SECRET_KEY": "their-secret",
        "REDIS_URL": "redis://:their-password@redis.example/0",
        "MINIO_USERS": "api=for-api:their-second-secret",
        "REDIS_USERS": "api=for-api:their-second-password",
    }
    save_configuration(build_configuration(external, {}, silent), tmp_path / ".env")
    assert "their" not in (tmp_path / ".env").read_text()


def test_configuration_treats_sourced_saved_file_as_own(tmp_path: Path) -> None:
    save_configuration(build_configuration(free_ports(), {}, silent), tmp_path / ".env")
    saved = load_saved_settings(tmp_path / ".env")
    configuration = build_configuration(saved, saved, silent)
    assert configuration.owns_minio
    assert configuration.owns_redis
    assert configuration.credentials.tokens == {}  # the generated token is not a given one


def test_configuration_drops_root_credentials_of_earlier_version() -> None:
    earlier = {
        "MINIO_ROOT_USER": "rowdrop",
        "MINIO_ROOT_PASSWORD": "of-an-earlier-version",
        "MINIO_ACCESS_KEY": "rowdrop",
        "MINIO_SECRET_KEY": "of-an-earlier-version",
        "REDIS_URL": "redis://:of-an-earlier-version@127.0.0.1:6379/0",
    }
    for given in ({}, earlier):
        configuration = build_configuration(given, earlier, silent)
        assert configuration.owns_redis
        credentials = configuration.credentials
        assert credentials.root.name.partition("-")[0] == "root"
        assert credentials.minio["drop"].name.partition("-")[0] == "drop"
        assert "of-an-earlier-version" not in str([credentials.minio, credentials.redis_urls])


def test_configuration_accepts_new_secret_for_same_key(tmp_path: Path) -> None:
    first = {"MINIO_ACCESS_KEY": "alice", "MINIO_SECRET_KEY": "first-secret"}
    save_configuration(build_configuration(free_ports() | first, {}, silent), tmp_path / ".env")
    second = first | {"MINIO_SECRET_KEY": "second-secret"}
    saved = load_saved_settings(tmp_path / ".env")
    credentials = build_configuration(second, saved, silent).credentials
    assert credentials.minio["drop"] == ("alice", "second-secret")


def test_save_configuration_includes_user_credentials(tmp_path: Path) -> None:
    configuration = build_configuration(free_ports(), {}, silent)
    save_configuration(configuration, tmp_path / ".env")
    saved = load_saved_settings(tmp_path / ".env")
    assert saved["MINIO_ACCESS_KEY"] == configuration.credentials.minio["drop"].name
    assert saved["GENERATED_API_TOKEN"] == configuration.settings_of("api")["GENERATED_API_TOKEN"]
    assert "REDIS_URL" not in saved


def test_remove_credentials_cleans_inherited_environment() -> None:
    environment = {
        "PATH": "/bin", "MINIO_REGION": "eu-1", "MINIO_ROOT_PASSWORD_FILE": "/f",
        "MINIO_KMS_SECRET_KEY": "k", "REDIS_URL": "u", "API_TOKENS": "t",
        "GENERATED_API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s", "LOG_LEVEL": "INFO",
    }  # fmt: skip
    assert remove_credentials(environment) == {
        "PATH": "/bin",
        "MINIO_REGION": "eu-1",
        "LOG_LEVEL": "INFO",
    }
    assert select_minio_settings(environment) == {
        "MINIO_REGION": "eu-1",
        "MINIO_KMS_SECRET_KEY": "k",
    }


def test_configuration_refuses_short_root_password() -> None:
    with pytest.raises(StartupError, match="at least 8"):
        build_configuration({"MINIO_ROOT_PASSWORD": "short"}, {}, silent)


def test_read_given_settings_prefers_environment_over_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=1\nREDIS_PORT=2\nFLOWER_PORT=\nLOG_LEVEL='a $b'\n")
    given = read_given_settings({"API_PORT": "3", "REDIS_PORT": ""}, tmp_path / ".env")
    assert given == {"API_PORT": "3", "LOG_LEVEL": "a $b"}


def test_read_given_settings_reads_secret_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-the-file\n")
    given = read_given_settings(
        {"MINIO_SECRET_KEY_FILE": str(tmp_path / "secret")}, tmp_path / "no.env"
    )
    assert given == {"MINIO_SECRET_KEY": "from-the-file"}


def test_read_given_settings_names_missing_secret_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="REDIS_URL_FILE=/nowhere"):
        read_given_settings({"REDIS_URL_FILE": "/nowhere"}, tmp_path / "no.env")


# -- external servers ------------------------------------------------------------------------------
def external_minio(endpoint: str) -> dict[str, str]:
    return {"MINIO_ENDPOINT": endpoint, "MINIO_ACCESS_KEY": "key", "MINIO_SECRET_KEY": "secret-key"}


def test_check_external_servers_accepts_servers_that_answer(taken_port: int) -> None:
    given = external_minio(f"http://127.0.0.1:{taken_port}")
    given["REDIS_URL"] = f"redis://127.0.0.1:{taken_port}/0"
    check_external_servers(build_configuration(given, {}, silent))


def test_check_external_servers_ignores_own_servers() -> None:
    check_external_servers(build_configuration({}, {}, silent))


def test_check_external_servers_names_the_setting_to_correct() -> None:
    configuration = build_configuration({"REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}, {}, silent)
    with pytest.raises(StartupError) as refusal:
        check_external_servers(configuration)
    assert str(refusal.value) == (
        "Redis does not answer at 127.0.0.1:1 (REDIS_URL): correct REDIS_URL, "
        "or unset it to use the Redis that ./run.sh starts."
    )
    configuration = build_configuration(external_minio("http://127.0.0.1:1"), {}, silent)
    with pytest.raises(StartupError, match=r"MinIO does not answer at http://127.0.0.1:1 \(MINIO_"):
        check_external_servers(configuration)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://127.0.0.1:99999"])
def test_check_external_servers_leaves_invalid_address_to_init(endpoint: str) -> None:
    check_external_servers(build_configuration(external_minio(endpoint), {}, silent))


# -- the banner ------------------------------------------------------------------------------------
README = Path(__file__).parents[2] / "README.md"


def test_banner_begins_with_the_example_of_the_readme(tmp_path: Path) -> None:
    configuration = build_configuration({}, {}, silent)
    banner = render_banner(tmp_path, configuration)
    (example,) = re.findall(
        r"(?m)^ +(printf .* > 0001\.csv\n +curl -T .*)$", README.read_text("utf-8")
    )
    expected = example.replace(":8080", f":{configuration.values['API_PORT']}").split()
    first_example = banner.partition("Drop a file, get a row:\n\n")[2]
    assert first_example.split()[: len(expected)] == expected
    assert "aws-sigv4" in banner.partition("Or with any S3 client:")[2]
    assert "Authorization" not in banner


@pytest.mark.parametrize(
    "settings",
    [
        {"API_TOKENS": "ci=a-token-that-the-test-has-set"},
        {"ALLOWED_HOSTS": "rowdrop.example.org"},
    ],
)
def test_banner_sends_a_token_where_one_is_needed(tmp_path: Path, settings: dict[str, str]) -> None:
    banner = render_banner(tmp_path, build_configuration(settings, {}, silent))
    assert banner.count('-H "Authorization: Bearer $TOKEN"') == 2
    assert "./rowdrop credentials --show" in banner
    assert "a-token-that-the-test-has-set" not in banner


def test_configuration_keeps_given_tokens_at_every_start(tmp_path: Path) -> None:
    """They are in the kept file as well, for people, and nothing reads them from there."""
    settings = {
        "API_TOKEN": "a-token-that-the-test-has-set",
        "READ_TOKENS": "grafana=another-token-of-the-test",
        "EVENTS_TOKEN": "a-third-token-of-the-test",
        "FLOWER_USER": "watcher",
    }
    saved: dict[str, str] = {}
    for _ in range(3):
        configuration = build_configuration(settings, saved, silent)
        save_configuration(configuration, tmp_path / ".env")
        saved = load_saved_settings(tmp_path / ".env")
        given = configuration.settings_of("api") | configuration.settings_of("flower")
        assert settings.items() <= given.items()
        assert "GENERATED_API_TOKEN" not in given
    configuration = build_configuration({}, saved, silent)
    assert "API_TOKEN" not in configuration.settings_of("api")


def test_banner_needs_no_token_because_of_read_tokens(tmp_path: Path) -> None:
    settings = {"READ_TOKENS": "grafana=a-token-that-the-test-has-set"}
    banner = render_banner(tmp_path, build_configuration(settings, {}, silent))
    assert "Authorization" not in banner
