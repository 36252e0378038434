"""Generate the credentials of all containers: `rowdrop credentials`.

The container `secrets` runs this before any server starts.  Credentials that the environment does
not set are generated once and kept.  Each other container mounts its own volume, and this module
writes the files that the container reads: an environment file for MinIO, redis.conf for Redis, and
one file per setting (`<NAME>_FILE`) for Rowdrop's processes.  It also tests that the servers' data
folders are writable, so that a wrong owner is reported here and not in a server's log.

`--show` prints the credentials for people, as lines that a shell can source.  `--show worker`
prints those that a worker on another machine needs.  `--renew` generates new credentials.
"""

import os
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from shared.formats.events import EVENT_TARGET
from shared.formats.records import Buckets
from worker.commands.provisioning.credential_set import (
    GIVEN_SETTINGS,
    PROCESSES,
    TOKEN_SETTINGS,
    Credentials,
    InvalidCredentials,
    parse_redis_user,
)
from worker.commands.provisioning.server_users import digest_users, format_redis_acl

CREDENTIALS_HOME = Path("/run/rowdrop")
"""Where the credential volumes of all other containers are mounted, one folder per container.  Only
this container writes to them."""
MINIO_HOME = Path("/srv/minio")
REDIS_HOME = Path("/srv/redis")
REDIS_ADDRESS = "redis:6379"
OPTIONAL_SETTINGS = {
    "api": (*TOKEN_SETTINGS, "GENERATED_API_TOKEN"),
    "init": ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_USERS", "EVENTS_TOKEN"),
}
"""Settings of a container that may be empty.  Their files always exist, because docker-compose.yml
names them."""
KEPT_FILE = "kept.env"
"""The file with the credentials to keep for the next start, in a volume that no other container
mounts."""


class PreparationError(Exception):
    """A credential or a folder cannot be used; the message names it, the reason and the remedy."""


def build_credential_files(credentials: Credentials, buckets: Buckets) -> dict[str, dict[str, str]]:
    """Return the files of all containers: folder name to file name to content."""
    health = credentials.redis["health"]
    process_files = {}
    for process in PROCESSES:
        settings = dict.fromkeys(OPTIONAL_SETTINGS.get(process, ()), "") | credentials.settings_of(
            process
        )
        process_files[process] = {name.lower(): value for name, value in settings.items()}
    minio = {
        "minio.env": format_assignments(_build_minio_variables(credentials)),
        "users_id": digest_users(credentials.minio, buckets),
    }
    redis = {
        "redis.conf": _build_redis_conf(credentials),
        "health_user": health.name,
        "health_password": health.password,
    }
    return {**process_files, "minio": minio, "redis": redis}


def _build_minio_variables(credentials: Credentials) -> dict[str, str]:
    """Return root's credentials and the Redis address and user of the event target.

    docker-compose.yml sets the other variables of MinIO.
    """
    address = urlsplit(credentials.redis_urls["minio"])
    user = parse_redis_user(credentials.redis_urls["minio"])
    target = {
        "ADDRESS": f"{address.hostname}:{address.port or 6379}",
        "USER": user.name,
        "PASSWORD": user.password,
    }
    return {
        "MINIO_ROOT_USER": credentials.root.name,
        "MINIO_ROOT_PASSWORD": credentials.root.password,
        **{
            f"MINIO_NOTIFY_REDIS_{name}_{EVENT_TARGET}": value
            for name, value in target.items()
            if value
        },
    }


def _build_redis_conf(credentials: Credentials) -> str:
    lines = [
        *format_redis_acl(credentials.redis),
        "port 6379",
        "bind * -::*",
        f"dir {REDIS_HOME / 'data'}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    return "\n".join(lines) + "\n"


def prepare_credentials(
    home: Path, given: Mapping[str, str], buckets: Buckets, now: float, *, renew: bool = False
) -> Credentials:
    """Write the files of all containers below `home`, readable only by their owner (mode 400).

    `given` maps settings to values from the environment, `now` is the time in Unix seconds.
    `renew` discards the saved credentials and generates new ones.  Raises `PreparationError`.
    """
    saved = (
        {}
        if renew
        else {name: value for name, value in dotenv_values(home / KEPT_FILE).items() if value}
    )
    try:
        credentials = Credentials.complete(given, saved, REDIS_ADDRESS, now)
    except InvalidCredentials as error:
        raise PreparationError(str(error)) from None
    files = {KEPT_FILE: format_assignments(credentials.settings_to_keep())}
    for folder, contents in build_credential_files(credentials, buckets).items():
        files |= {f"{folder}/{name}": content for name, content in contents.items()}
    _remove_unknown_files(home, files)
    for name, content in files.items():
        path = home / name
        temporary = path.with_name(f"{path.name}.new")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.unlink(missing_ok=True)
        # The file has its final mode from the start, so no other user can read it at any time.  The
        # rename is atomic: a container never reads a partial file.
        with open(  # noqa: PTH123
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8"
        ) as file:
            file.write(content)
        temporary.replace(path)
    return credentials


def _remove_unknown_files(home: Path, files: Iterable[str]) -> None:
    """Remove the credential files that this version does not write.

    Earlier versions stored the files of all containers in one volume.
    """
    folders = [home / process for process in (*PROCESSES, "minio", "redis")]
    known_paths = {home / name for name in files}
    for path in [
        path for folder in (home, *folders) if folder.is_dir() for path in folder.iterdir()
    ]:
        if path.is_file() and path not in known_paths:
            path.unlink()


def make_folders(folders: Iterable[Path], mounted: Mapping[Path, str]) -> None:
    """Create the servers' folders and test that they are writable.

    `mounted` maps the path of each volume to its name or path on the host, for the error message.
    Raises `PreparationError`.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".rowdrop-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            owner = f"{os.getuid()}:{os.getgid()}"
            volume = next((volume for volume in mounted if folder.is_relative_to(volume)), folder)
            raise PreparationError(
                f"{folder} is not writable ({error.strerror}).  "
                f"It is {mounted.get(volume, volume)} on the host.\n"
                "Make the containers' user its owner: "
                f"sudo chown -R {owner} {mounted.get(volume, volume)}"
            ) from error


def format_assignments(values: Mapping[str, str]) -> str:
    """Return `NAME='value'` lines, which a shell, MinIO and dotenv all read the same way.

    Raises `PreparationError` for values with quotes, backslashes or line breaks.
    """
    for name, value in values.items():
        if set(value) & set("'\"\\\r\n"):
            raise PreparationError(f"{name} must not contain quotes, backslashes or line breaks.")
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def read_assignments(path: Path) -> dict[str, str]:
    """Return the settings in a file of shell assignments."""
    words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def format_settings(credentials: Credentials, process: str, minio_endpoint: str) -> str:
    """Return the credentials of one of `PROCESSES`, or those for people if `process` is empty.

    The lines are readable by people and can be sourced by a shell.
    """
    settings = credentials.settings_of(process) if process else credentials.settings_for_people()
    return format_assignments({"MINIO_ENDPOINT": minio_endpoint, **settings})


def is_secrets_container() -> bool:
    """Return whether this process can write the credentials of all containers."""
    return all((CREDENTIALS_HOME / process).is_dir() for process in PROCESSES)


def write_credentials(environment: Mapping[str, str], *, renew: bool = False) -> Credentials:
    """Write the credential files of all containers, and create the servers' folders.

    `environment` has the settings as docker-compose.yml passes them to the container `secrets`: one
    that is not set is an empty string. Raises `PreparationError`.
    """
    mounted = {
        CREDENTIALS_HOME: environment.get("CREDENTIALS_VOLUME", "a volume"),
        MINIO_HOME: environment.get("MINIO_VOLUME", "a volume"),
        REDIS_HOME: environment.get("REDIS_VOLUME", "a volume"),
    }
    given = {name: environment[name] for name in GIVEN_SETTINGS if environment.get(name)}
    buckets = Buckets(
        environment.get("SOURCE_BUCKET") or "src-data",
        environment.get("OUTPUT_BUCKET") or "processed-data",
    )
    minio_folders = [MINIO_HOME / name for name in ("data", "queue", "certs")]
    make_folders([CREDENTIALS_HOME, *minio_folders, REDIS_HOME / "data"], mounted)
    return prepare_credentials(CREDENTIALS_HOME, given, buckets, time.time(), renew=renew)


def find_public_endpoint(environment: Mapping[str, str]) -> str:
    """Return the address of MinIO for clients outside of the containers."""
    default_endpoint = f"http://127.0.0.1:{environment.get('MINIO_PORT', '9000')}"
    return environment.get("MINIO_ENDPOINT") or default_endpoint
