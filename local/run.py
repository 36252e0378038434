"""The command behind run.sh: start the servers and Rowdrop, print the addresses, stop everything.

It runs in the foreground until Ctrl-C.  `local.install` starts it in the virtual environment.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from local import configuration as config
from local.banner import banner
from local.configuration import Configuration
from local.errors import CannotRun
from local.locks import lock, try_lock
from local.ports import HOST
from local.processes import ROOT, Supervisor, app, read_credentials, servers, stop_left_overs, write_credentials
from local.readiness import ports_of, wait_for_app, wait_for_ports, wait_for_servers
from local.screen import Screen
from local.servers import MinioServer, RedisServer, find_minio, find_redis, tail
from local.signals import Stopped, ignore_signals, raise_when_stopped
from worker.credential_set import PROCESSES, UNKNOWN_USERS
from worker.server_users import redis_acl, users_id


def main() -> int:
    """Run Rowdrop until it is stopped.

    Returns the exit status: 0 if a signal stopped it, 1 with a message if it cannot run.
    """
    screen = Screen(sys.stdout)
    raise_when_stopped()
    try:
        given = config.from_outside(os.environ, ROOT / ".env")
        # The checkout's .env also applies to find_minio and the child processes.
        os.environ.update(given)
        folder, wanted = _folder(given), _wanted()
        if wanted.load and _runs(folder):
            _load(wanted.load, given | read_credentials(folder, "loader"))
            return 0
        with _only_one(folder):
            _run(folder, given, wanted, screen)
    except CannotRun as error:
        screen("")
        print(f"rowdrop: {error}", file=sys.stderr)
        return 1
    except Stopped:
        screen("Stopped.")
    return 0


@dataclass(frozen=True)
class _Wanted:
    """The command line: whether to write the sample, and the folder to load."""

    sample: bool
    load: Path | None


def _wanted() -> _Wanted:
    parser = argparse.ArgumentParser(prog="./run.sh")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--load", type=Path)
    arguments = parser.parse_args()
    return _Wanted(not (arguments.empty or arguments.load), arguments.load)


def _runs(folder: Path) -> bool:
    """Return whether a Rowdrop runs in this data folder."""
    with (folder / "run.lock").open("a+") as file:
        return not try_lock(file)


def _folder(given: dict[str, str]) -> Path:
    folder = ROOT / Path(given.get("ROWDROP_DIR", "var")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise CannotRun(
            f"cannot use the data folder {folder}: {error.strerror}.  Set ROWDROP_DIR to another."
        ) from error
    return folder


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder / "run.lock").open("a+") as file:
        if not try_lock(file):
            file.seek(0)
            raise CannotRun(
                f"already runs in {folder} (PID {file.read().strip()}).\n"
                "Stop it, or set ROWDROP_DIR to another folder to run a second Rowdrop."
            )
        # The PID is only for the message above.  The lock does not depend on it.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _run(folder: Path, given: dict[str, str], wanted: _Wanted, screen: Screen) -> None:
    stop_left_overs(folder, lambda names: screen(f"Stopping orphan processes of a killed run: {', '.join(names)}"))
    redis_binary, minio_binary = _find_servers(folder, given, screen)
    with ExitStack() as choosing_ports:
        choosing_ports.enter_context(_lock_against_other_starts(screen))
        configuration = config.configure(given, config.kept_in(folder / ".env"), screen)
        config.keep(configuration, folder / ".env")
        if configuration.values.get("BIND_ADDRESS", HOST) != HOST:
            screen(f"BIND_ADDRESS is ignored: it is for docker compose.  ./run.sh listens only on {HOST}.")
        redis, minio = _servers(folder, configuration, redis_binary, minio_binary)
        supervisor = Supervisor(folder, [*servers(redis, minio), *app(configuration.port("API_PORT"))])
        try:
            sample = _start(supervisor, configuration, (redis, minio), wanted.sample, screen)
            # All chosen ports are in use now: another start may choose its own.
            choosing_ports.close()
            wait_for_app(supervisor, configuration, sample, screen)
            if wanted.load:
                screen(f"Loading {wanted.load}:")
                _load(wanted.load, _environment(configuration, folder) | read_credentials(folder, "loader"))
            screen(banner(folder, configuration))
            supervisor.wait()
            raise CannotRun(f"supervisor ended unexpectedly:\n{tail(supervisor.log('supervisord'))}")
        finally:
            ignore_signals()
            screen("Stopping: Rowdrop, MinIO, Redis …")
            supervisor.stop()


def _find_servers(folder: Path, given: dict[str, str], screen: Screen) -> tuple[Path | None, Path | None]:
    """Return the programs of Redis and MinIO, each None if that server is external.

    Validates the settings first, so that an error is reported before the slow build of MinIO.
    """
    wanted = config.configure(given, config.kept_in(folder / ".env"), lambda _: None)
    redis = find_redis(screen) if wanted.own_redis else None
    minio = find_minio(report=screen) if wanted.own_minio else None
    return redis, minio


def _lock_against_other_starts(screen: Screen) -> AbstractContextManager[None]:
    """Return a lock that serialises this user's starts until the chosen ports are in use.

    Without it, two concurrent starts could choose the same free ports.
    """
    wait = "Another Rowdrop is starting: waiting, {:.0f} s …"
    path = Path(tempfile.gettempdir()) / f"rowdrop-{os.getuid()}.lock"
    return lock(path, lambda seconds: screen(wait.format(seconds)))


def _servers(
    folder: Path, configuration: Configuration, redis_binary: Path | None, minio_binary: Path | None
) -> tuple[RedisServer | None, MinioServer | None]:
    address, redis, minio = configuration.redis_of_minio, None, None
    credentials = configuration.credentials
    if redis_binary:
        health = credentials.redis["health"]
        port = configuration.port("REDIS_PORT")
        acl = redis_acl(credentials.redis)
        redis = RedisServer(folder / "redis", port, health.password, redis_binary, health.name, acl)
        redis.prepare()
    if minio_binary:
        minio = MinioServer(
            folder=folder / "minio",
            port=configuration.port("MINIO_PORT"),
            console_port=configuration.port("MINIO_CONSOLE_PORT"),
            root_user=credentials.root.name,
            root_password=credentials.root.password,
            redis_host=address.host,
            redis_port=address.port,
            redis_user=address.user,
            redis_password=address.password,
            binary=minio_binary,
            users_id=users_id(credentials.minio, configuration.buckets),
            metrics_are_public=False,
        )
        minio.prepare()
    return redis, minio


def _start(
    supervisor: Supervisor,
    configuration: Configuration,
    own: tuple[RedisServer | None, MinioServer | None],
    with_sample: bool,
    screen: Screen,
) -> bool:
    """Start everything in order.  Return whether the caller must wait for the sample's rows."""
    redis, minio = own
    folder = supervisor.folder
    for process in PROCESSES:
        write_credentials(folder, process, configuration.settings_of(process))
    if minio:
        write_credentials(folder, "minio", {**config.for_minio(os.environ), **minio.environment()})
    environment = _environment(configuration, folder)
    supervisor.start(environment)
    wait_for_servers(supervisor, redis, minio, screen)

    def let_users_be_made() -> None:
        if minio:
            minio.forget_users()
            supervisor.restart("minio")
            wait_for_servers(supervisor, redis, minio, screen)

    sample = _init(environment, configuration, with_sample, screen, let_users_be_made)
    supervisor.start_app()
    wait_for_ports(ports_of(configuration))
    return sample


def _environment(configuration: Configuration, folder: Path) -> dict[str, str]:
    """Return the environment of all processes, without credentials.

    Flower reads its options from FLOWER_* variables, such as FLOWER_ADDRESS.
    """
    return config.without_credentials(configuration.values) | {
        "ROWDROP_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "FLOWER_ADDRESS": "127.0.0.1",
        # Overrides a value for docker compose: here nothing listens on other addresses.
        "BIND_ADDRESS": "127.0.0.1",
    }


def _init(
    environment: dict[str, str],
    configuration: Configuration,
    with_sample: bool,
    screen: Screen,
    repair: Callable[[], None],
) -> bool:
    """Run `worker.init`.  Return whether it has written the sample into a new source bucket.

    `repair` is called if MinIO lacks users and root may not sign in to create them.
    """
    screen("Preparing users, buckets and notifications …")
    arguments = ["--sample", "yes"] if with_sample else []
    own = {**configuration.settings_of("init"), **config.for_minio(os.environ)}
    said = _python(["worker.init", *arguments], {**environment, **own}, repair).splitlines()
    for line in said:
        screen(line)
    return with_sample and f"created {configuration.source_bucket}" in said


def _load(folder: Path, environment: Mapping[str, str]) -> None:
    """Drop the files of a folder with `worker.load`, which shows a progress bar.

    Raises `CannotRun`.
    """
    command = [sys.executable, "-m", "worker.load", str(folder.resolve())]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise CannotRun(f"not all files of {folder} were loaded: see above")


def _python(arguments: list[str], environment: dict[str, str], repair: Callable[[], None]) -> str:
    """Run one of Rowdrop's modules and return its output.

    If it exits with `UNKNOWN_USERS`, `repair` is called and the module is run once more.  Raises
    `CannotRun` with the output if it fails.
    """

    def run() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = run()
    if done.returncode == UNKNOWN_USERS:
        repair()
        done = run()
    if done.returncode:
        raise CannotRun(f"python -m {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
