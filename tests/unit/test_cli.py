"""The command line: its help, wrong use, and where it finds the settings."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from local.configuration import build_configuration, save_settings_of_run
from worker.commands.cli.main import rowdrop
from worker.commands.cli.settings_discovery import SettingsNotFound, find_settings

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "check",
    "credentials",
    "errors",
    "init",
    "load",
    "rebuild",
    "sample",
    "status",
    "sweep",
    "watch",
)
MINIO = {"MINIO_ENDPOINT": "http://m:9000", "MINIO_ACCESS_KEY": "key", "MINIO_SECRET_KEY": "secret"}
REDIS = {"REDIS_URL": "redis://r:6379/0"}
BOTH = ("minio", "redis")


def test_cli_has_exactly_these_commands() -> None:
    assert tuple(sorted(rowdrop.commands)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_cli_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(rowdrop, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"rowdrop {command}" in result.output.partition("Example")[2]


def test_cli_help_names_exit_codes() -> None:
    result = CliRunner().invoke(rowdrop, ["--help"])
    assert result.exit_code == 0
    assert "130 interrupted" in " ".join(result.output.split())
    assert "..." not in result.output.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stat"], "No such command 'stat'"),
        (["status", "--jason"], "No such option"),
        (["load"], "Missing argument 'PATH...'"),
        (["load", "/no/such/folder"], "does not exist"),
        (["sample", "--count", "0"], "0 is not in the range"),
        (["init", "--sample", "perhaps"], "'perhaps' is not one of"),
        (["credentials", "--show", "publishers"], "'publishers' is not one of"),
        (["credentials", "--renew"], "--renew is for docker compose"),
    ],
)
def test_cli_wrong_use_exits_with_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(rowdrop, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_cli_version() -> None:
    assert CliRunner().invoke(rowdrop, ["--version"]).output.startswith("rowdrop, version ")


def test_rowdrop_script_names_run_sh_before_the_first_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "rowdrop", tmp_path)
    completed = subprocess.run(
        [str(tmp_path / "rowdrop"), "status"], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 3
    assert "Start Rowdrop with ./run.sh" in completed.stderr


# -- where the settings are ------------------------------------------------------------------------
@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout in which run.sh has started a Rowdrop."""
    (tmp_path / "run.sh").touch()
    write_data_folder(tmp_path / "var", "var")
    return tmp_path


def write_data_folder(folder: Path, name: str) -> None:
    """Write what run.sh writes; `name` is in each value."""
    (folder / "credentials").mkdir(parents=True)
    lines = [
        f"MINIO_ENDPOINT='http://{name}'",
        f"MINIO_ACCESS_KEY='{name}-people'",
        f"MINIO_SECRET_KEY='{name}-people-secret'",
    ]
    (folder / ".env").write_text("\n".join(lines))
    (folder / "settings.env").write_text(f"# Written.\nSOURCE_BUCKET={name}-data\nIMAGES=copy\n")
    for process in ("worker", "init"):
        (folder / "credentials" / f"{process}.env").write_text(
            f"MINIO_ENDPOINT=http://{name}\nMINIO_ACCESS_KEY={name}-{process}\n"
            f"MINIO_SECRET_KEY='{name} secret'\nREDIS_URL=redis://{name}\n"
        )


def test_find_settings_prefers_a_complete_environment(checkout: Path) -> None:
    assert find_settings("worker", BOTH, MINIO | REDIS, checkout) == {}
    assert find_settings("worker", ["minio"], MINIO, checkout) == {}


def test_find_settings_accepts_files_named_in_the_environment(checkout: Path) -> None:
    environment = {
        "MINIO_ENDPOINT": "http://minio:9000",
        "MINIO_ACCESS_KEY_FILE": "/run/rowdrop/minio_access_key",
        "MINIO_SECRET_KEY_FILE": "/run/rowdrop/minio_secret_key",
        "REDIS_URL_FILE": "/run/rowdrop/redis_url",
    }
    assert find_settings("worker", BOTH, environment, checkout) == {}


@pytest.mark.parametrize("process", ["worker", "init"])
def test_find_settings_reads_credentials_of_the_process(checkout: Path, process: str) -> None:
    assert find_settings(process, BOTH, {}, checkout) == {
        "SOURCE_BUCKET": "var-data",
        "IMAGES": "copy",
        "MINIO_ENDPOINT": "http://var",
        "MINIO_ACCESS_KEY": f"var-{process}",
        "MINIO_SECRET_KEY": "var secret",
        "REDIS_URL": "redis://var",
    }


def test_find_settings_uses_the_folder_of_rowdrop_dir(checkout: Path, tmp_path: Path) -> None:
    write_data_folder(tmp_path / "one", "one")
    write_data_folder(tmp_path / "two", "two")
    (checkout / ".env").write_text("ROWDROP_DIR=one\n")
    assert find_settings("worker", BOTH, {}, checkout)["REDIS_URL"] == "redis://one"
    environment = {"ROWDROP_DIR": str(tmp_path / "two")}
    assert find_settings("worker", BOTH, environment, checkout)["REDIS_URL"] == "redis://two"


def test_find_settings_lets_the_environment_override_options(checkout: Path) -> None:
    settings = find_settings("worker", BOTH, {"SOURCE_BUCKET": "mine"}, checkout)
    assert "SOURCE_BUCKET" not in settings
    assert settings["IMAGES"] == "copy"


def test_find_settings_ignores_a_sourced_env_file(checkout: Path) -> None:
    environment = {
        "MINIO_ENDPOINT": "http://var",
        "MINIO_ACCESS_KEY": "var-people",
        "MINIO_SECRET_KEY": "var-people-secret",
    }
    assert (
        find_settings("worker", ["minio"], environment, checkout)["MINIO_ACCESS_KEY"]
        == "var-worker"
    )


def test_find_settings_never_sends_a_key_to_another_server(checkout: Path) -> None:
    settings = find_settings("worker", BOTH, {"MINIO_ENDPOINT": "http://another"}, checkout)
    assert settings.keys() == {"SOURCE_BUCKET", "IMAGES", "REDIS_URL"}
    assert find_settings("worker", BOTH, MINIO, checkout) == settings


def test_find_settings_without_servers_finds_only_options(checkout: Path) -> None:
    settings = find_settings("init", (), {}, checkout)
    assert settings == {"SOURCE_BUCKET": "var-data", "IMAGES": "copy"}


def test_find_settings_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "run.sh").touch()
    with pytest.raises(SettingsNotFound) as caught:
        find_settings("worker", BOTH, {}, tmp_path)
    message = str(caught.value)
    assert "MINIO_ACCESS_KEY" in message
    assert str(tmp_path / "var" / "credentials" / "worker.env") in message
    assert "./run.sh" in message
    assert "ROWDROP_DIR" in message


def test_find_settings_outside_of_a_checkout_names_the_environment(tmp_path: Path) -> None:
    with pytest.raises(SettingsNotFound, match="REDIS_URL in the environment"):
        find_settings("worker", BOTH, {}, tmp_path)


def test_find_settings_leaves_an_incomplete_environment_to_validation(tmp_path: Path) -> None:
    assert find_settings("worker", BOTH, REDIS, tmp_path) == {}


def test_find_settings_reads_what_run_sh_saves(checkout: Path) -> None:
    given = {"SOURCE_BUCKET": "it's mine", "IMAGES": "reference", "LOG_LEVEL": "INFO"}
    configuration = build_configuration(given, {}, lambda _: None)
    save_settings_of_run(configuration, checkout / "var" / "settings.env")
    settings = find_settings("worker", BOTH, {}, checkout)
    assert settings["SOURCE_BUCKET"] == "it's mine"
    assert settings["IMAGES"] == "reference"
    assert settings["API_PORT"] == configuration.values["API_PORT"]
    assert "LOG_LEVEL" not in settings
