"""Find the settings of the running Rowdrop: in the environment, else in the data folder of run.sh.

In a container docker-compose.yml sets the environment. It names a file for each credential.
"""

import fcntl
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from dotenv import dotenv_values

from shared import logs
from shared.settings import Settings
from shared.tokens import TokenKind
from worker.commands.provisioning.credential_files import CREDENTIALS_HOME, read_assignments
from worker.commands.provisioning.credential_set import SETTINGS_FILE, TOKEN_SETTINGS
from worker.commands.provisioning.instructions import ACL_HINT
from worker.commands.status import ApiAddress
from worker.services.server_errors import (
    NO_REDIS_PERMISSION,
    Failure,
    ServerError,
    classify_error,
)

if TYPE_CHECKING:
    from worker.services.clients import ServerClients

ROOT = Path(__file__).parents[3]
"""The checkout. In a container it is the folder with the program."""
MINIO_SETTINGS = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
SERVER_SETTINGS = {"minio": MINIO_SETTINGS, "redis": ("REDIS_URL",)}
"""The settings without which a server cannot be used."""
DEFAULT_API_PORT = "8080"
DEFAULT_REDIS_PORT = 6379
CONTAINER_API = "http://api:8080"
_OTHER_CONTAINERS = {
    "load": "run --rm --no-deps -T -v FOLDER:/load:ro load rowdrop load /load",
    "sample": "run --rm --no-deps -T init rowdrop sample",
    "init": "run --rm --no-deps -T init rowdrop init",
    "credentials": "run --rm --no-deps -T secrets rowdrop credentials",
}
"""The arguments of docker compose for commands that the container `worker` may not run."""


@dataclass(frozen=True)
class SettingsSource:
    """The settings of this command, and where they were found.

    `folder` is the data folder of run.sh. `saved_names` are the settings that come from it; all
    others come from the environment. `in_container`: see `is_container`.
    """

    settings: Settings
    folder: Path
    saved_names: frozenset[str]
    in_container: bool = False

    def find_address(self, server: str) -> str:
        """Return the address of `MinIO` or `Redis`, without credentials."""
        if server == "MinIO":
            return self.settings.minio_endpoint
        url = urlsplit(self.settings.redis_url)
        return f"{url.hostname}:{url.port or DEFAULT_REDIS_PORT}"

    def is_saved(self, server: str) -> bool:
        """Return whether the address of `MinIO` or `Redis` is that of run.sh's data folder."""
        return SERVER_SETTINGS[server.lower()][0] in self.saved_names


class SettingsNotFound(Exception):
    """There are no settings. The message says where they were looked for, and what to do."""


def is_container() -> bool:
    """Return whether this is one of the containers of docker-compose.yml."""
    return CREDENTIALS_HOME.is_dir() and not is_checkout(ROOT)


def is_checkout(root: Path) -> bool:
    """Return whether run.sh can start a Rowdrop in this folder."""
    return (root / "run.sh").is_file()


def find_data_folder(environment: Mapping[str, str], root: Path) -> Path:
    """Return the data folder of run.sh, which need not exist."""
    configured = environment.get("ROWDROP_DIR") or _read_lines(root / ".env").get("ROWDROP_DIR")
    return root / Path(configured or "var").expanduser()


def is_running(folder: Path) -> bool:
    """Return whether a ./run.sh with this data folder runs: it holds a lock until it ends."""
    try:
        with (folder / "run.lock").open() as file:
            # Without a living process the lock is not taken: it could stop a ./run.sh that starts.
            os.kill(int(file.read()), 0)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):
        pass
    return False


def find_settings(
    process: str, servers: Collection[str], environment: Mapping[str, str], root: Path = ROOT
) -> dict[str, str]:
    """Return the settings to add to the environment, so that a command can use `servers`.

    `process` is one of `PROCESSES`: the command gets its rights. `servers` are some of
    `SERVER_SETTINGS`. A server that the environment describes completely is used as it is. Raises
    `SettingsNotFound`.
    """
    folder = find_data_folder(environment, root)
    saved = _read_lines(folder / ".env")
    given = _find_given_names(environment, saved)
    settings_file = folder / SETTINGS_FILE
    settings = read_assignments(settings_file) if settings_file.is_file() else {}
    if not servers:
        return {name: value for name, value in settings.items() if name not in given}
    if all(given.issuperset(SERVER_SETTINGS[server]) for server in servers):
        return {}
    credentials_file = folder / "credentials" / f"{process}.env"
    if not (is_checkout(root) and credentials_file.is_file()):
        if any(given.intersection(SERVER_SETTINGS[server]) for server in servers):
            return {}  # incomplete: the validation of the settings names what is missing
        raise SettingsNotFound(_explain_search(servers, credentials_file, root))
    combined = settings | read_assignments(credentials_file)
    # Never combine an address from one place with a key from another one.
    for names in SERVER_SETTINGS.values():
        if given.intersection(names):
            combined = {name: value for name, value in combined.items() if name not in names}
    return {name: value for name, value in combined.items() if name not in given}


def _find_given_names(environment: Mapping[str, str], saved: Mapping[str, str]) -> set[str]:
    """Return the settings in the environment, without those that are copies of saved ones.

    The operator may have sourced `var/.env`, and its credentials have fewer rights.
    """
    names = {name for name, value in environment.items() if value and saved.get(name) != value}
    return {name.removesuffix("_FILE") for name in names}


def _explain_search(servers: Collection[str], credentials_file: Path, root: Path) -> str:
    names = ", ".join(name for server in servers for name in SERVER_SETTINGS[server])
    lines = [
        "no settings of a Rowdrop were found.  Looked for:",
        f"- {names} in the environment: not set",
    ]
    if is_checkout(root):
        lines += [
            f"- {credentials_file}: does not exist",
            "Start Rowdrop with ./run.sh.  If it uses another data folder, set ROWDROP_DIR to it.",
        ]
    return "\n".join(lines)


def _read_lines(path: Path) -> dict[str, str]:
    values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    return {name: value for name, value in values.items() if value}


def load_settings(process: str, *servers: str) -> Settings:
    """Find the settings, add them to the environment and validate them.

    The context of the running command gets the `SettingsSource`. Raises `SettingsNotFound` and
    `InvalidSettings`.
    """
    found = find_settings(process, servers, os.environ)
    os.environ.update(found)
    settings = Settings.from_environment(minio="minio" in servers, redis="redis" in servers)
    folder = find_data_folder(os.environ, ROOT)
    context = click.get_current_context().find_root()
    context.obj = SettingsSource(settings, folder, frozenset(found), is_container())
    return settings


def open_clients(process: str, *servers: str) -> "ServerClients":
    """Return the clients of `servers`, with the rights of a process. Raises as `load_settings`."""
    from worker.services.clients import ServerClients  # noqa: PLC0415  obstore: slow

    settings = load_settings(process, *servers)
    clients = ServerClients(settings)
    # The log goes to the terminal: below a warning only if the user asks for it.
    logs.configure_logging(settings.log_level if "LOG_LEVEL" in os.environ else "WARNING")
    return clients


def explain_server_error(error: Exception, ctx: click.Context) -> str:
    """Return what failed, at which address, and what to do, for an error of `SERVER_ERRORS`."""
    source = ctx.find_root().obj
    failed = classify_error(error)
    sentence = failed.describe(source.find_address(failed.server))
    return f"{sentence} {_suggest_remedy(failed, source, ctx)}"


def _suggest_remedy(failed: ServerError, source: SettingsSource, ctx: click.Context) -> str:
    is_refusal = failed.failure in {Failure.WRONG_CREDENTIALS, Failure.NO_PERMISSION}
    if failed.failure is Failure.NO_BUCKET:
        return "`rowdrop init` creates the buckets."
    if failed.cause == NO_REDIS_PERMISSION and ctx.find_root().invoked_subcommand == "init":
        return f"\n{ACL_HINT}"
    service = failed.server.lower()
    if source.in_container:
        if is_refusal:
            return suggest_container(ctx)
        return f"Look at the service: docker compose ps {service}; docker compose logs {service}"
    if not source.is_saved(failed.server):
        names = SERVER_SETTINGS[service]
        return f"Check {', '.join(names if is_refusal else names[:1])} in the environment."
    if not is_running(source.folder):
        return f"Rowdrop is not running in {source.folder}: start it with ./run.sh."
    if is_refusal:
        return f"Stop ./run.sh and start it again: it renews the files in {source.folder}."
    logs_folder = source.folder / "logs"
    return f"If Rowdrop is starting, run the command again in some seconds; see {logs_folder}."


def suggest_container(ctx: click.Context) -> str:
    """Return how to run this command in the container that has the credentials for it."""
    command = ctx.find_root().invoked_subcommand or ""
    arguments = _OTHER_CONTAINERS.get(command, f"exec worker rowdrop {command}")
    return f"Each container has only its own credentials.  Use: docker compose {arguments}"


def find_api(settings: Settings, url: str | None, root: Path = ROOT) -> ApiAddress:
    """Return the address of the API: `url`, or that of the running Rowdrop."""
    token = _find_read_token(settings)
    if url:
        return ApiAddress(url.rstrip("/"), token=token)
    if is_container():
        # The API answers clients on the same machine without a token, if it is not published.
        return ApiAddress(CONTAINER_API, host="localhost", token=token)
    saved = _read_lines(find_data_folder(os.environ, root) / ".env")
    port = os.environ.get("API_PORT") or saved.get("API_PORT") or DEFAULT_API_PORT
    return ApiAddress(f"http://127.0.0.1:{port}", token=token)


def _find_read_token(settings: Settings) -> str:
    """Return a token that the API accepts for reads, or "" without one."""
    # The API ignores the generated token if the operator has set one for writes.
    for kind in (TokenKind.WRITE, TokenKind.READ, TokenKind.GENERATED):
        for token in settings.all_tokens:
            if token.kind is kind:
                return token.value
    return ""


def read_settings_for_people(environment: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """Return what run.sh has saved for people: the endpoint, and credentials to log in with.

    Those of MinIO, Flower and the API have fewer rights than the credentials of the processes.
    `environment` only names the data folder. Raises `SettingsNotFound`.
    """
    path = find_data_folder(environment, root) / ".env"
    saved = _read_lines(path)
    if not saved:
        raise SettingsNotFound(f"{path} does not exist.  Start Rowdrop with ./run.sh.")
    names = (*MINIO_SETTINGS, "FLOWER_USER", "FLOWER_PASSWORD", *TOKEN_SETTINGS)
    return {name: saved[name] for name in (*names, "GENERATED_API_TOKEN") if name in saved}
