"""The command behind run.sh: start the servers and Rowdrop, print the addresses, stop everything.

It runs in the foreground until Ctrl-C.  `local.install` starts it in the virtual environment.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from local import configuration as config
from local.banner import render_banner
from local.configuration import Configuration
from local.errors import StartupError
from local.locks import lock_path, try_lock_file
from local.ports import HOST
from local.processes import (
    ROOT,
    Supervisor,
    read_credentials,
    stop_stale_processes,
    write_credentials,
)
from local.readiness import (
    check_external_servers,
    list_ports,
    wait_for_app,
    wait_for_ports,
    wait_for_servers,
)
from local.screen import Screen
from local.servers import (
    MinioOptions,
    MinioPorts,
    MinioServer,
    RedisServer,
    find_minio,
    find_redis,
    read_log_tail,
)
from local.signals import StopRequested, ignore_stop_signals, raise_on_stop_signal
from worker.commands.cli.exit_codes import EXIT_ATTENTION
from worker.commands.provisioning.credential_set import (
    EXIT_UNKNOWN_USERS,
    PROCESSES,
    SETTINGS_FILE,
)
from worker.commands.provisioning.server_users import digest_users, format_redis_acl

_ROWDROP_COMMAND = (sys.executable, "-m", "worker.commands.cli")
_NOT_ALL_LOADED = (
    "Not everything in {0} was loaded: the list is above the addresses.  "
    "./rowdrop load {1} lists it again, and loads only what is new."
)


def main() -> int:
    """Run Rowdrop until it is stopped.

    Returns the exit status: 0 if a signal stopped it, 1 with a message if it cannot run. If it only
    loads a folder into a running Rowdrop, that of `rowdrop load`: 1 if it skipped files.
    """
    screen = Screen(sys.stdout)
    raise_on_stop_signal()
    try:
        given = config.read_given_settings(os.environ, ROOT / ".env")
        # The checkout's .env also applies to find_minio and the child processes.
        os.environ.update(given)
        folder = _prepare_data_folder(given)
        arguments = _parse_arguments()
        if arguments.load and _is_running(folder):
            environment = given | read_credentials(folder, "loader")
            is_complete = _load_folder(arguments.load, environment)
            return 0 if is_complete else EXIT_ATTENTION
        with _hold_run_lock(folder):
            _run_until_stopped(folder, given, arguments, screen)
    except StartupError as error:
        screen("")
        print(f"rowdrop: {error}", file=sys.stderr)
        return 1
    except StopRequested:
        screen("Stopped.")
    return 0


@dataclass(frozen=True)
class _Arguments:
    """The command line: whether to write the sample, and the folder to load."""

    sample: bool
    load: Path | None


def _parse_arguments() -> _Arguments:
    parser = argparse.ArgumentParser(prog="./run.sh")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--load", type=Path)
    arguments = parser.parse_args()
    return _Arguments(not (arguments.empty or arguments.load), arguments.load)


def _is_running(folder: Path) -> bool:
    """Return whether a Rowdrop runs in this data folder."""
    with (folder / "run.lock").open("a+") as file:
        return not try_lock_file(file)


def _prepare_data_folder(given: dict[str, str]) -> Path:
    folder = ROOT / Path(given.get("ROWDROP_DIR", "var")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StartupError(
            f"cannot use the data folder {folder}: {error.strerror}.  Set ROWDROP_DIR to another."
        ) from error
    return folder


@contextmanager
def _hold_run_lock(folder: Path) -> Iterator[None]:
    with (folder / "run.lock").open("a+") as file:
        if not try_lock_file(file):
            file.seek(0)
            raise StartupError(
                f"already runs in {folder} (PID {file.read().strip()}).\n"
                "Stop it, or set ROWDROP_DIR to another folder to run a second Rowdrop."
            )
        # The PID is only for the message above.  The lock does not depend on it.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _run_until_stopped(
    folder: Path, given: dict[str, str], arguments: _Arguments, screen: Screen
) -> None:
    def report_orphans(names: list[str]) -> None:
        screen(f"Stopping orphan processes of a killed run: {', '.join(names)}")

    stop_stale_processes(folder, report_orphans)
    redis_binary, minio_binary = _find_binaries(folder, given, screen)
    with ExitStack() as port_lock:
        port_lock.enter_context(_lock_port_selection(screen))
        configuration = config.build_configuration(
            given, config.load_saved_settings(folder / ".env"), screen
        )
        config.save_configuration(configuration, folder / ".env")
        if configuration.values.get("BIND_ADDRESS", HOST) != HOST:
            screen(
                "BIND_ADDRESS is ignored: it is for docker compose.  "
                f"./run.sh listens only on {HOST}."
            )
        redis, minio = _create_servers(folder, configuration, redis_binary, minio_binary)
        supervisor = Supervisor(folder)
        try:
            servers = (redis, minio)
            has_sample = _start_processes(
                supervisor, configuration, servers, arguments.sample, screen
            )
            # All chosen ports are in use now: another start may choose its own.
            port_lock.close()
            wait_for_app(supervisor, configuration, has_sample, screen)
            is_complete = True
            if arguments.load:
                screen(f"Loading {arguments.load}:")
                environment = _build_environment(configuration, folder)
                is_complete = _load_folder(
                    arguments.load, environment | read_credentials(folder, "loader")
                )
            screen(render_banner(folder, configuration))
            if not is_complete:
                screen(_NOT_ALL_LOADED.format(arguments.load, shlex.quote(str(arguments.load))))
            # Returns only if supervisor has died: Ctrl-C raises `StopRequested` here.
            supervisor.wait()
            log_tail = read_log_tail(supervisor.get_log_path("supervisord"))
            raise StartupError(f"supervisor ended unexpectedly:\n{log_tail}")
        finally:
            ignore_stop_signals()
            screen("Stopping: Rowdrop, MinIO, Redis …")
            supervisor.stop(screen)


def _find_binaries(
    folder: Path, given: dict[str, str], screen: Screen
) -> tuple[Path | None, Path | None]:
    """Return the programs of Redis and MinIO, each None if that server is external.

    Validates the settings and connects to external servers first, so that an error is reported
    before the slow build of MinIO.
    """
    preview = config.build_configuration(
        given, config.load_saved_settings(folder / ".env"), lambda _: None
    )
    check_external_servers(preview)
    redis = find_redis(screen) if preview.owns_redis else None
    minio = find_minio(report=screen) if preview.owns_minio else None
    return redis, minio


def _lock_port_selection(screen: Screen) -> AbstractContextManager[None]:
    """Return a lock that serialises this user's starts until the chosen ports are in use.

    Without it, two concurrent starts could choose the same free ports.
    """
    wait_message = "Another Rowdrop is starting: waiting, {:.0f} s …"
    path = Path(tempfile.gettempdir()) / f"rowdrop-{os.getuid()}.lock"
    return lock_path(path, lambda seconds: screen(wait_message.format(seconds)))


def _create_servers(
    folder: Path, configuration: Configuration, redis_binary: Path | None, minio_binary: Path | None
) -> tuple[RedisServer | None, MinioServer | None]:
    event_redis = configuration.event_redis
    redis = None
    minio = None
    credentials = configuration.credentials
    if redis_binary:
        health_user = credentials.redis["health"]
        port = configuration.port("REDIS_PORT")
        acl = format_redis_acl(credentials.redis)
        redis = RedisServer(folder / "redis", port, health_user, acl, redis_binary)
        redis.prepare_folder()
    if minio_binary:
        console_port = configuration.values.get("MINIO_CONSOLE_PORT")
        ports = MinioPorts(
            configuration.port("MINIO_PORT"), int(console_port) if console_port else None
        )
        users_id = digest_users(credentials.minio, configuration.buckets)
        options = MinioOptions(minio_binary, users_id, metrics_are_public=False)
        minio = MinioServer(folder / "minio", ports, credentials.root, event_redis, options)
        minio.prepare_folder()
    return redis, minio


def _start_processes(
    supervisor: Supervisor,
    configuration: Configuration,
    owned_servers: tuple[RedisServer | None, MinioServer | None],
    with_sample: bool,
    screen: Screen,
) -> bool:
    """Start everything in order.  Return whether the caller must wait for the sample's rows."""
    redis, minio = owned_servers
    folder = supervisor.folder
    for process in PROCESSES:
        write_credentials(folder, process, configuration.settings_of(process))
    config.save_settings_of_run(configuration, folder / SETTINGS_FILE)
    if minio:
        # Rowdrop's own settings take precedence over those that the user has set for MinIO.
        minio_settings = config.select_minio_settings(os.environ) | minio.build_environment()
        write_credentials(folder, "minio", minio_settings)
    environment = _build_environment(configuration, folder)
    supervisor.start(environment, *(server for server in owned_servers if server))
    wait_for_servers(supervisor, redis, minio, screen)

    def recreate_users() -> None:
        if minio:
            minio.forget_users()
            supervisor.restart("minio")
            wait_for_servers(supervisor, redis, minio, screen)

    has_sample = _run_init(environment, configuration, with_sample, screen, recreate_users)
    supervisor.start_app(without=() if "FLOWER_PORT" in configuration.values else ("flower",))
    wait_for_ports(list_ports(configuration))
    return has_sample


def _build_environment(configuration: Configuration, folder: Path) -> dict[str, str]:
    """Return the environment of all processes, without credentials.

    Flower reads its options from FLOWER_* variables, such as FLOWER_ADDRESS.
    """
    return config.remove_credentials(configuration.values) | {
        "ROWDROP_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "FLOWER_ADDRESS": "127.0.0.1",
        # Overrides a value for docker compose: here nothing listens on other addresses.
        "BIND_ADDRESS": "127.0.0.1",
        "PAGE_LINKS": config.list_page_links(configuration.values),
    }


def _run_init(
    environment: dict[str, str],
    configuration: Configuration,
    with_sample: bool,
    screen: Screen,
    on_unknown_users: Callable[[], None],
) -> bool:
    """Run `rowdrop init`.  Return whether it has written the sample into a new source bucket.

    `on_unknown_users` is called if MinIO lacks users and root may not sign in to create them.
    """
    screen("Preparing users, buckets and notifications …")
    arguments = ["--sample", "yes"] if with_sample else []
    init_settings = configuration.settings_of("init")
    init_environment = environment | init_settings | config.select_minio_settings(os.environ)
    output = _run_rowdrop(["init", *arguments], init_environment, on_unknown_users)
    output_lines = output.splitlines()
    for line in output_lines:
        screen(line)
    return with_sample and f"created {configuration.source_bucket}" in output_lines


def _load_folder(folder: Path, environment: Mapping[str, str]) -> bool:
    """Drop the files of a folder with `rowdrop load`, which shows a progress bar.

    Returns whether nothing was skipped.  What was skipped is listed.  Raises `StartupError`.
    """
    command = [*_ROWDROP_COMMAND, "load", str(folder.resolve())]
    exit_code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if exit_code not in {0, EXIT_ATTENTION}:
        raise StartupError(f"{folder} was not loaded: see above")
    return exit_code == 0


def _run_rowdrop(
    arguments: list[str], environment: dict[str, str], on_unknown_users: Callable[[], None]
) -> str:
    """Run a command of `rowdrop` and return its output.

    If it exits with `EXIT_UNKNOWN_USERS`, `on_unknown_users` is called and the command is run once
    more.  Raises `StartupError` with the output if it fails.
    """

    def run_once() -> "subprocess.CompletedProcess[str]":
        command = [*_ROWDROP_COMMAND, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    completed = run_once()
    if completed.returncode == EXIT_UNKNOWN_USERS:
        on_unknown_users()
        completed = run_once()
    if completed.returncode:
        output = f"{completed.stdout}{completed.stderr}"
        raise StartupError(f"rowdrop {' '.join(arguments)} failed:\n{output}")
    return completed.stdout


if __name__ == "__main__":
    sys.exit(main())
