"""The command behind run.sh: find the servers, start everything, say where it is, stop everything."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import configuration as config
from local.configuration import Configuration
from local.errors import CannotRun
from local.locks import try_lock
from local.processes import ROOT, Supervisor, app, servers, stop_left_overs
from local.screen import Screen
from local.servers import MinioServer, RedisServer, find_minio, find_redis, http_get, tail
from local.signals import Stopped, ignore_signals, raise_when_stopped

_SERVER_WAIT_S = 120.0
_READY_WAIT_S = 60.0


def main() -> int:
    """Run until stopped.  0 when somebody stopped it, 1 with a message when it cannot run."""
    screen = Screen(sys.stdout)
    raise_when_stopped()
    try:
        given = config.from_outside(os.environ, ROOT / ".env")
        os.environ.update(given)  # for what we look for and start, the checkout's .env is as good as the environment
        folder = _folder(given)
        with _only_one(folder):
            _run(folder, given, "--empty" not in sys.argv[1:], screen)
    except CannotRun as error:
        screen("")
        print(f"rowdrop: {error}", file=sys.stderr)
        return 1
    except Stopped:
        screen("Stopped.")
    return 0


def _folder(given: dict[str, str]) -> Path:
    folder = ROOT / Path(given.get("ROWDROP_DIR", "var")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise CannotRun(
            f"the data folder {folder} cannot be used: {error.strerror}.  Set ROWDROP_DIR to another."
        ) from error
    return folder


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder / "run.lock").open("a+") as file:
        if not try_lock(file):
            file.seek(0)
            raise CannotRun(
                f"already runs in {folder} (process {file.read().strip()}).\n"
                "Stop that one, or set ROWDROP_DIR to another folder to run a second one beside it."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _run(folder: Path, given: dict[str, str], with_sample: bool, screen: Screen) -> None:
    stop_left_overs(folder, lambda names: screen(f"Stopping what a killed run left: {', '.join(names)}"))
    configuration = config.configure(given, config.kept_in(folder / ".env"), screen)
    config.keep(configuration, folder / ".env")
    redis, minio = _servers(folder, configuration, screen)
    supervisor = Supervisor(folder, [*servers(redis, minio), *app(folder, configuration.port("API_PORT"))])
    environment = _environment(configuration, folder)
    try:
        supervisor.start(environment | (minio.environment() if minio else {}))
        _wait_for_servers(supervisor, redis, minio, screen)
        sample = _init(environment, configuration, screen) and with_sample
        if sample:
            _python("local.sample", environment)
        supervisor.start_app()
        _wait_for_app(supervisor, configuration, sample, screen)
        screen(_banner(folder, configuration))
        supervisor.wait()
        raise CannotRun(f"supervisor ended by itself:\n{tail(supervisor.log('supervisord'))}")
    finally:
        ignore_signals()
        screen("Stopping: Rowdrop, MinIO, Redis …")
        supervisor.stop()


def _servers(
    folder: Path, configuration: Configuration, screen: Screen
) -> tuple[RedisServer | None, MinioServer | None]:
    address, redis, minio = configuration.redis, None, None
    if configuration.own_redis:
        redis = RedisServer(folder / "redis", address.port, address.password, find_redis(screen))
        redis.prepare()
    if configuration.own_minio:
        minio = MinioServer(
            folder=folder / "minio",
            port=configuration.port("MINIO_PORT"),
            console_port=configuration.port("MINIO_CONSOLE_PORT"),
            root_user=configuration.values["MINIO_ROOT_USER"],
            root_password=configuration.values["MINIO_ROOT_PASSWORD"],
            redis_host=address.host,
            redis_port=address.port,
            redis_user=address.user,
            redis_password=address.password,
            binary=find_minio(report=screen),
        )
        minio.prepare()
    return redis, minio


def _environment(configuration: Configuration, folder: Path) -> dict[str, str]:
    """What every process gets.  Flower reads its own settings from FLOWER_*."""
    values = configuration.values
    return values | {
        "ROWDROP_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_BASIC_AUTH": f"{values['FLOWER_USER']}:{values['FLOWER_PASSWORD']}",
    }


def _wait_for_servers(
    supervisor: Supervisor, redis: RedisServer | None, minio: MinioServer | None, screen: Screen
) -> None:
    for name, server in (("redis", redis), ("minio", minio)):
        started = time.monotonic()
        while server and not server.is_ready():
            waited = time.monotonic() - started
            if waited > _SERVER_WAIT_S:
                raise CannotRun(f"{name} is not ready after {waited:.0f} s:\n{tail(supervisor.log(name))}")
            if waited > 2:
                screen(f"Waiting for {name}: {waited:.0f} s …")
            time.sleep(0.05)


def _init(environment: dict[str, str], configuration: Configuration, screen: Screen) -> bool:
    """Have buckets and notifications made; whether the source bucket is new."""
    screen("Preparing buckets and notifications …")
    said = _python("worker.init", environment).splitlines()
    for line in said:
        screen(line)
    return f"created {configuration.source_bucket}" in said


def _python(module: str, environment: dict[str, str]) -> str:
    """Run a module of ours to its end and return what it printed.  Raises `CannotRun` with that when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotRun(f"python -m {module} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _wait_for_app(supervisor: Supervisor, configuration: Configuration, sample: bool, screen: Screen) -> None:
    """Return when a drop would become a row, and the sample has.  Takes long: say once why, and go on waiting."""
    port = configuration.port("API_PORT")
    started = time.monotonic()
    told = False
    while (missing := _missing(port, sample)) is not None:
        waited = time.monotonic() - started
        if waited > _READY_WAIT_S and not told:
            told = True
            screen(_complaint(supervisor, missing, waited))
        screen(f"Waiting until Rowdrop is ready: {waited:.0f} s …")
        time.sleep(1 if told else 0.1)


def _missing(port: int, sample: bool) -> str | None:
    status, body = http_get(port, "/health/ready")
    if status != 200:
        return f"GET /health/ready: {body.decode(errors='replace') or 'no answer'}"
    if sample:
        status, body = http_get(port, "/data")
        rows = json.loads(body) if status == 200 else []
        if not any(str(row["user_id"]).startswith("sample-") for row in rows):
            return f"GET /data shows no row of the sample (status {status})"
    return None


def _complaint(supervisor: Supervisor, missing: str, waited: float) -> str:
    """What is not ready, with the log that matters: of a program that does not run, else of the API."""
    states = supervisor.states() or {}
    down = {name: state for name, state in states.items() if state != "RUNNING"}
    lines = [f"Not ready after {waited:.0f} s.  {missing}"]
    for name in down or {"api": ""}:
        lines.append(f"  {name} {down.get(name, '')}: the end of {supervisor.log(name)}")
        lines.append(tail(supervisor.log(name)))
    return "\n".join([*lines, "Waiting on; Ctrl-C stops."])


def _banner(folder: Path, configuration: Configuration) -> str:
    values = configuration.values
    credentials = _short(folder / ".env")
    lines = [
        "",
        "Rowdrop is ready.  Ctrl-C stops it; the data stays.",
        "",
        f"  API           http://127.0.0.1:{values['API_PORT']}/data   (also /stats, /errors, /health/ready)",
        f"  S3            {values['MINIO_ENDPOINT']}   drop into {configuration.source_bucket}",
        f"  Flower        http://127.0.0.1:{values['FLOWER_PORT']}",
        f"  Credentials   {credentials}",
        f"  Logs          {_short(folder / 'logs')}",
        "",
        "Drop a file, get a row:",
        "",
        *_example(credentials, configuration),
        "",
    ]
    if configuration.own_minio:
        lines.insert(5, f"  Console       http://127.0.0.1:{values['MINIO_CONSOLE_PORT']}")
    return "\n".join(lines)


def _example(credentials: str, configuration: Configuration) -> list[str]:
    bucket, port = configuration.source_bucket, configuration.values["API_PORT"]
    source = (
        f"  . {credentials}" if configuration.own_minio else "  # MINIO_ENDPOINT, MINIO_ACCESS_KEY, …: as you gave them"
    )
    return [
        source,
        "  printf 'first_name,last_name,birthts\\nIvan,Ivanov,946674000000\\n' > 0001.csv",
        '  curl -fsS --aws-sigv4 aws:amz:us-east-1:s3 --user "$MINIO_ACCESS_KEY:$MINIO_SECRET_KEY" \\',
        f'    -T 0001.csv "$MINIO_ENDPOINT/{bucket}/0001.csv"',
        f"  curl -s http://127.0.0.1:{port}/data",
    ]


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
