"""The command line: its help, wrong use, and where it finds the settings."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from kombu.exceptions import OperationalError
from minio.error import MinioException
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
)
from urllib3.exceptions import HTTPError, ReadTimeoutError

from local.configuration import build_configuration, save_settings_of_run
from local.locks import try_lock_file
from shared.object_store import StoreUnavailable
from shared.settings import Settings
from shared.text import format_count
from worker.commands.cli.main import rowdrop
from worker.commands.cli.report_commands import format_status
from worker.commands.cli.settings_discovery import (
    SettingsNotFound,
    SettingsSource,
    explain_server_error,
    find_api,
    find_settings,
    is_running,
)
from worker.commands.status import ApiAddress, request_readiness
from worker.services.server_errors import classify_error

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


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo the logging configuration of a command that runs in the process of the tests."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    level = root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


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
        (["status", "--api", "nonsense"], "must begin with http:// or https://"),
        (["status", "--api", "127.0.0.1:8080"], "must begin with http:// or https://"),
        (["watch", "--api", "ftp://127.0.0.1"], "must begin with http:// or https://"),
        (["watch", "--api", "http://127.0.0.1:99999"], "is not an address such as"),
        (["status", "--api", "http://"], "is not an address such as"),
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
    given = {
        "SOURCE_BUCKET": "it's mine",
        "IMAGES": "reference",
        "ZIP_NAMES": "cp866",
        "LOG_LEVEL": "INFO",
    }
    configuration = build_configuration(given, {}, lambda _: None)
    save_settings_of_run(configuration, checkout / "var" / "settings.env")
    settings = find_settings("worker", BOTH, {}, checkout)
    assert settings["SOURCE_BUCKET"] == "it's mine"
    assert (settings["IMAGES"], settings["ZIP_NAMES"]) == ("reference", "cp866")
    assert settings["API_PORT"] == configuration.values["API_PORT"]
    assert "LOG_LEVEL" not in settings


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EVENTS_TOKEN": "events-token-0123456789"}, ""),
        ({"GENERATED_API_TOKEN": "generated-token-012345"}, "generated-token-012345"),
        ({"API_TOKENS": "ci=write-token-0123456789"}, "write-token-0123456789"),
        ({"READ_TOKENS": "bi=reads-token-0123456789"}, "reads-token-0123456789"),
        ({"API_TOKEN": "first-token-0123456789"}, "first-token-0123456789"),
    ],
)
def test_find_api_sends_token_that_may_read(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """The API ignores the generated token if another may write, and that of events for reads."""
    others = {"EVENTS_TOKEN": "other-events-token-01234"}
    if "GENERATED_API_TOKEN" not in variables and expected:
        others["GENERATED_API_TOKEN"] = "other-generated-012345"
    for name, value in (others | variables).items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment(minio=False, redis=False)
    assert find_api(settings, "http://127.0.0.1:8080").token == expected


# -- errors of the servers -------------------------------------------------------------------------
def make_store_error(text: str) -> StoreUnavailable:
    """Return an error of a bucket, caused by an error with this text of obstore."""
    try:
        try:
            raise OSError(text)  # noqa: TRY301
        except OSError as error:
            raise StoreUnavailable("src-data/a: Generic S3 error") from error
    except StoreUnavailable as error:
        return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            make_store_error("retry_timeout: 5s, kind: ConnectionRefused, timed out"),
            "MinIO does not answer at HERE (connection refused).",
        ),
        (
            make_store_error("dns error: failed to lookup address information"),
            "MinIO does not answer at HERE (unknown host name).",
        ),
        (
            HTTPError("HTTPConnectionPool(): Max retries exceeded: [Errno 111] Connection refused"),
            "MinIO does not answer at HERE (connection refused).",
        ),
        (
            ReadTimeoutError(None, "/", "no bytes"),  # type: ignore[arg-type]
            "MinIO does not answer at HERE (timeout).",
        ),
        (
            StoreUnavailable("src-data/a: InvalidAccessKeyId: The key does not exist."),
            "MinIO at HERE refuses the credentials (InvalidAccessKeyId).",
        ),
        (
            StoreUnavailable("src-data/a: SignatureDoesNotMatch: The signature is wrong."),
            "MinIO at HERE refuses the credentials (SignatureDoesNotMatch).",
        ),
        (
            MinioException("S3 operation failed; code: AccessDenied, message: Access Denied."),
            "MinIO at HERE denies access (AccessDenied).",
        ),
        (
            StoreUnavailable("src-data: NoSuchBucket: The bucket does not exist"),
            "MinIO at HERE lacks a bucket (NoSuchBucket).",
        ),
        (
            StoreUnavailable("src-data/a: InternalError: the disk is full.\nDebug source"),
            "MinIO at HERE answers with an error: src-data/a: InternalError: the disk is full.",
        ),
        (
            RedisError("Error 111 connecting to 127.0.0.1:6379. Connection refused."),
            "Redis does not answer at HERE (connection refused).",
        ),
        (
            OperationalError("Error -2 connecting to r:6379. Name or service not known."),
            "Redis does not answer at HERE (unknown host name).",
        ),
        (
            AuthenticationError("invalid username-password pair or user is disabled."),
            "Redis at HERE refuses the credentials (wrong user or password).",
        ),
        (
            NoPermissionError("this user has no permissions to run the command"),
            "Redis at HERE denies access (NOPERM).",
        ),
        (BusyLoadingError("loading"), "Redis does not answer at HERE (it is starting)."),
    ],
)
def test_classify_error_describes_each_cause(error: Exception, sentence: str) -> None:
    assert classify_error(error).describe("HERE") == sentence


def explain(
    error: Exception, folder: Path, command: str, *saved_names: str, in_container: bool = False
) -> str:
    """Return the message about an error, of a command with these settings from `folder`."""
    settings = Settings("http://m:9000", "key", "secret", "redis://user:password@r:6380/0")
    context = click.Context(rowdrop)
    context.invoked_subcommand = command
    context.obj = SettingsSource(settings, folder, frozenset(saved_names), in_container)
    return explain_server_error(error, context)


REFUSED = RedisError("Connection refused")


def test_server_error_in_checkout_names_data_folder(tmp_path: Path) -> None:
    expected = (
        "MinIO does not answer at http://m:9000 (connection refused). "
        f"Rowdrop is not running in {tmp_path}: start it with ./run.sh."
    )
    assert explain(HTTPError("Connection refused"), tmp_path, "status", *MINIO) == expected
    message = explain(REFUSED, tmp_path, "status", *REDIS)
    assert message.startswith("Redis does not answer at r:6380 (connection refused). Rowdrop is")
    assert "password" not in message


def test_server_error_in_checkout_while_rowdrop_runs(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with (tmp_path / "run.lock").open("w") as file:
        assert try_lock_file(file)
        file.write(str(os.getpid()))
        file.flush()
        assert is_running(tmp_path)
        assert "If Rowdrop is starting" in explain(REFUSED, tmp_path, "status", *REDIS)
        refused = StoreUnavailable("InvalidAccessKeyId")
        assert "Stop ./run.sh and start it again" in explain(refused, tmp_path, "status", *MINIO)
    assert not is_running(tmp_path)  # the file stays, the lock does not


def test_server_error_names_settings_of_environment(tmp_path: Path) -> None:
    message = explain(REFUSED, tmp_path, "status")
    assert message.endswith("Check REDIS_URL in the environment.")
    message = explain(StoreUnavailable("AccessDenied"), tmp_path, "load")
    names = "MINIO_ENDPOINT, MINIO_ACCESS_KEY, MINIO_SECRET_KEY"
    assert message.endswith(f"Check {names} in the environment.")


def test_server_error_in_container_names_service(tmp_path: Path) -> None:
    message = explain(REFUSED, tmp_path, "status", in_container=True)
    assert message.endswith("docker compose ps redis; docker compose logs redis")
    message = explain(StoreUnavailable("AccessDenied"), tmp_path, "load", in_container=True)
    assert "Use: docker compose run --rm --no-deps -T -v FOLDER:/load:ro load" in message


def test_server_error_of_init_names_acl_rules(tmp_path: Path) -> None:
    denied = NoPermissionError("this user has no permissions")
    assert "ACL rules" in explain(denied, tmp_path, "init")
    assert "`rowdrop init`" in explain(StoreUnavailable("NoSuchBucket"), tmp_path, "status")


@pytest.mark.parametrize("command", ["status", "errors", "check", "load", "sample", "init"])
def test_every_command_reports_stopped_servers_plainly(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "1.csv").touch()
    dead = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1/0"}
    for name, value in (MINIO | dead).items():
        monkeypatch.setenv(name, value)
    arguments = [command, str(tmp_path)] if command == "load" else [command]
    result = CliRunner().invoke(rowdrop, arguments)
    assert result.exit_code == 4
    assert result.output == (
        "Error: MinIO does not answer at http://127.0.0.1:1 (connection refused). "
        "Check MINIO_ENDPOINT in the environment.\n"
    )


def test_watch_reports_stopped_servers_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1/0"}
    for name, value in (MINIO | dead).items():
        monkeypatch.setenv(name, value)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    result = CliRunner().invoke(rowdrop, ["watch"])
    assert result.exit_code == 130
    assert (
        "\nMinIO does not answer at http://127.0.0.1:1 (connection refused). Check" in result.output
    )
    assert "The next attempt is in a second." in result.output


@pytest.mark.parametrize("command", ["sweep", "rebuild"])
def test_bulk_commands_report_stopped_redis_plainly(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (MINIO | {"REDIS_URL": "redis://127.0.0.1:1/0"}).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(rowdrop, [command])
    assert result.exit_code == 4
    assert result.output.startswith("Error: Redis does not answer at 127.0.0.1:1 (connection")


def test_request_readiness_reports_plainly_why_it_does_not_answer() -> None:
    readiness = request_readiness(ApiAddress("http://127.0.0.1:1"))
    reason = "the API at http://127.0.0.1:1 does not answer (connection refused)"
    assert readiness == (None, [reason], [])


# -- words -----------------------------------------------------------------------------------------
def test_format_count_has_singular_and_plural() -> None:
    assert [format_count(count, "file") for count in (0, 1, 2000)] == [
        "0 files",
        "1 file",
        "2,000 files",
    ]
    assert format_count(1, "key is", "keys are") == "1 key is"
    assert format_count(2, "key is", "keys are") == "2 keys are"


def make_status(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the status of a Rowdrop without work and errors, with these changes."""
    return {
        "ready": True,
        "reasons": [],
        "warnings": [],
        "rows": 20,
        "rejected": 0,
        "held": 0,
        "suspicious": 0,
        "ignored": 0,
        "ignored_members": 0,
        "dead_letters": 0,
        "events_waiting": 0,
        "dirty_users": {"event": 0},
        "queues": {"bulk": 0},
        "last_publish_at": "2026-01-31T12:00:00Z",
        "last_sweep": {
            "at": "2026-01-31T11:00:00Z",
            "cause": "schedule",
            "objects": 21,
            "marked": 1,
        },
        "trust_state": "verified",
    } | changes


def test_format_status_hides_lines_that_are_zero() -> None:
    assert format_status(make_status()) == [
        "ready         yes",
        "rows          20",
        "pending       nothing",
        "last publish  2026-01-31T12:00:00Z",
        "last sweep    2026-01-31T11:00:00Z (schedule): 21 objects compared, 1 user out of sync",
        "complete      yes, verified by a sweep at 2026-01-31T11:00:00Z",
    ]


def test_format_status_shows_everything_that_waits_or_is_wrong() -> None:
    counts = {"rejected": 7, "held": 1, "ignored": 1, "dead_letters": 2, "events_waiting": 1}
    counts |= {"suspicious": 2, "ignored_members": 1}
    work = {"dirty_users": {"event": 3}, "queues": {"bulk": 4}}
    lines = format_status(make_status(**counts, **work))
    assert lines[2:10] == [
        "rejects       8 invalid files: 7 without a row, 1 with its last valid row (held)",
        "suspicious    2 valid values that are probably wrong",
        "ignored       1 other file",
        "members       1 member of a bundle is not read: GET /tasks says why",
        "dead letters  2 unreadable events",
        "pending       event 3",
        "events        1 unprocessed event",
        "queues        bulk 4",
    ]


@pytest.mark.parametrize(
    ("state", "words"),
    [("verifying", "not known yet: a sweep is running"), ("suspect", "not known: drops may")],
)
def test_format_status_explains_trust_state(state: str, words: str) -> None:
    last_line = format_status(make_status(trust_state=state, last_sweep=None))[-1]
    assert last_line.startswith(f"complete      {words}")
    assert "last sweep    never" in format_status(make_status(last_sweep=None))


def test_load_help_mentions_folders_and_names() -> None:
    text = " ".join(CliRunner().invoke(rowdrop, ["load", "--help"]).output.split())
    assert "Sub-folders are read, too." in text
    assert "by its file name" in text


@pytest.mark.parametrize("module", ["worker.commands.cli.main", "local.run"])
def test_cli_import_loads_no_slow_library(module: str) -> None:
    """The containers of short commands have little memory, and numpy starts a thread per CPU."""
    code = f"import sys, {module}; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "pandas", "pyarrow", "obstore"}.intersection(completed.stdout.split())
