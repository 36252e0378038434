"""The credentials of a Rowdrop in containers: `python -m worker.credentials`, before any server starts.

What the environment does not give is generated, once, and kept.  Each container mounts a volume of its own, which this
one fills with the files that it reads: MinIO a file of variables, Redis its configuration, our own processes a file for
each setting (`<NAME>_FILE`).  The folders that the servers write to are tried, so that one that cannot be written is
named here, and not in a server's log.

`--show` prints what people need, as lines that a shell can source; `--show worker` what a worker on another machine
needs; `--renew` generates new ones.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from shared.records import Buckets
from worker.credential_set import GIVEN, PROCESSES, TOKEN_SETTINGS, Credentials, InvalidCredentials, redis_user_of
from worker.server_users import redis_acl, users_id

HOME = Path("/run/rowdrop")
"""Here are the volumes of all other containers, a folder each, which only this container writes to."""
MINIO_HOME, REDIS_HOME = Path("/srv/minio"), Path("/srv/redis")
REDIS_ADDRESS = "redis:6379"
OPTIONAL = {
    "api": (*TOKEN_SETTINGS, "GENERATED_API_TOKEN"),
    "init": ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_USERS"),
}
"""Settings of containers that may be empty.  Their files are there all the same, as docker-compose.yml names them."""
KEPT = "kept.env"
"""What the next start must find, in a volume that no other container mounts."""


class CannotPrepare(Exception):
    """A credential or a folder cannot be used; the message says which, why, and what to do."""


def files_of(credentials: Credentials, buckets: Buckets) -> dict[str, dict[str, str]]:
    """Return the files of each container, name to content, by the name of its folder."""
    health = credentials.redis["health"]
    own = {}
    for process in PROCESSES:
        settings = dict.fromkeys(OPTIONAL.get(process, ()), "") | credentials.settings_of(process)
        own[process] = {name.lower(): value for name, value in settings.items()}
    minio = {"minio.env": _lines(_minio_variables(credentials)), "users_id": users_id(credentials.minio, buckets)}
    redis = {
        "redis.conf": _redis_conf(credentials),
        "health_user": health.name,
        "health_password": health.password,
    }
    return {**own, "minio": minio, "redis": redis}


def _minio_variables(credentials: Credentials) -> dict[str, str]:
    """Return root's credentials and the address of both event targets (the rest is in docker-compose.yml)."""
    address = urlsplit(credentials.redis_urls["minio"])
    user = redis_user_of(credentials.redis_urls["minio"])
    target = {"ADDRESS": f"{address.hostname}:{address.port or 6379}", "USER": user.name, "PASSWORD": user.password}
    return {
        "MINIO_ROOT_USER": credentials.root.name,
        "MINIO_ROOT_PASSWORD": credentials.root.password,
        **{
            f"MINIO_NOTIFY_REDIS_{name}_{target_id}": value
            for target_id in ("FAST", "SAFE")
            for name, value in target.items()
            if value
        },
    }


def _redis_conf(credentials: Credentials) -> str:
    lines = [
        *redis_acl(credentials.redis),
        "port 6379",
        "bind * -::*",
        f"dir {REDIS_HOME / 'data'}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    return "\n".join(lines) + "\n"


def prepare(home: Path, given: Mapping[str, str], buckets: Buckets, now: float, *, renew: bool = False) -> Credentials:
    """Write the files of all containers below `home`, readable by the owner alone.

    `renew` generates what is not given again.  Raises `CannotPrepare`.
    """
    kept = {} if renew else {name: value for name, value in dotenv_values(home / KEPT).items() if value}
    try:
        credentials = Credentials.complete(given, kept, REDIS_ADDRESS, now)
    except InvalidCredentials as error:
        raise CannotPrepare(str(error)) from None
    files = {KEPT: _lines(credentials.to_keep())}
    for folder, contents in files_of(credentials, buckets).items():
        files |= {f"{folder}/{name}": content for name, content in contents.items()}
    _remove_others(home, files)
    for name, content in files.items():
        path = home / name
        new = path.with_name(f"{path.name}.new")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(content)
        new.replace(path)
    return credentials


def _remove_others(home: Path, files: Iterable[str]) -> None:
    """Remove credentials that this version does not write: earlier versions kept all of them in one volume."""
    folders = [home / process for process in (*PROCESSES, "minio", "redis")]
    wanted = {home / name for name in files}
    for path in [path for folder in (home, *folders) if folder.is_dir() for path in folder.iterdir()]:
        if path.is_file() and path not in wanted:
            path.unlink()


def make_folders(folders: Iterable[Path], mounted: Mapping[Path, str]) -> None:
    """Make the servers' folders.  `mounted`: what each volume is on the host.  Raises `CannotPrepare`."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".rowdrop-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            owner = f"{os.getuid()}:{os.getgid()}"
            volume = next((volume for volume in mounted if folder.is_relative_to(volume)), folder)
            raise CannotPrepare(
                f"{folder} cannot be written ({error.strerror}).  It is {mounted.get(volume, volume)} on the host.\n"
                f"Give that folder to the user of the containers: sudo chown -R {owner} {mounted.get(volume, volume)}"
            ) from error


def _lines(values: Mapping[str, str]) -> str:
    for name, value in values.items():
        if set(value) & set("'\"\\\r\n"):
            raise CannotPrepare(f"{name} must be without quotes, backslashes and line breaks.")
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def shown(credentials: Credentials, process: str, minio_endpoint: str) -> str:
    """Return lines for a person and for a shell: what people need, or what one of `PROCESSES` needs."""
    settings = credentials.settings_of(process) if process else credentials.for_people()
    return _lines({"MINIO_ENDPOINT": minio_endpoint, **settings})


def main() -> None:
    """Prepare, or show; exit 1 with the reason if that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m worker.credentials", description="Credentials of the containers.")
    parser.add_argument(
        "--show",
        nargs="?",
        const="",
        choices=("", *PROCESSES),
        metavar="PROCESS",
        help=f"print what people need, or what a process on another machine needs: {', '.join(PROCESSES)}",
    )
    parser.add_argument("--renew", action="store_true", help="generate new ones; then recreate all containers")
    arguments = parser.parse_args()
    mounted = {
        HOME: os.environ.get("CREDENTIALS_VOLUME", "a volume"),
        MINIO_HOME: os.environ.get("MINIO_VOLUME", "a volume"),
        REDIS_HOME: os.environ.get("REDIS_VOLUME", "a volume"),
    }
    given = {name: os.environ[name] for name in GIVEN if os.environ.get(name)}
    source_bucket = os.environ.get("SOURCE_BUCKET") or "src-data"
    output_bucket = os.environ.get("OUTPUT_BUCKET") or "processed-data"
    try:
        folders = [HOME, *(MINIO_HOME / name for name in ("data", "queue", "certs")), REDIS_HOME / "data"]
        make_folders(folders, mounted)
        credentials = prepare(HOME, given, Buckets(source_bucket, output_bucket), time.time(), renew=arguments.renew)
        if arguments.renew:
            print("New credentials are written.  Now: docker compose up -d --force-recreate", file=sys.stderr)
        if arguments.show is not None:
            own = f"http://127.0.0.1:{os.environ.get('MINIO_PORT', '9000')}"
            print(shown(credentials, arguments.show, os.environ.get("MINIO_ENDPOINT") or own), end="")
    except CannotPrepare as error:
        sys.exit(f"rowdrop: {error}")


if __name__ == "__main__":
    main()
