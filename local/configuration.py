"""The settings of one run of run.sh.

In order of precedence they come from the environment, from the checkout's `.env`, and from
`$ROWDROP_DIR/.env`, where an earlier run kept generated secrets and ports.  What is still missing
is generated.
"""

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from local.errors import StartupError
from local.ports import HOST, is_port_free
from local.redis_address import RedisAddress
from local.servers import write_private_file
from shared.formats.records import Buckets
from worker.commands.provisioning.credential_set import (
    GIVEN_SETTINGS,
    SECRET_SETTINGS,
    TOKEN_SETTINGS,
    Credentials,
    InvalidCredentials,
)

DEFAULT_PORTS = {
    "API_PORT": 8080,
    "MINIO_PORT": 9000,
    "MINIO_CONSOLE_PORT": 9001,
    "REDIS_PORT": 6379,
    "FLOWER_PORT": 5555,
}
"""The port settings and their defaults.  If a default is in use, the next free port is chosen.

Those of `OPTIONAL_PORTS` have no default here: only docker compose uses it.
"""

OPTIONAL_PORTS = ("MINIO_CONSOLE_PORT", "FLOWER_PORT")
"""The ports of what people ask for by setting the port: MinIO's console and Flower."""

_FILE_SETTINGS = (*GIVEN_SETTINGS, *DEFAULT_PORTS)
_SAVED_SETTINGS = (
    "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_USERS", "REDIS_USERS", "FLOWER_PASSWORD",
    "GENERATED_API_TOKEN",
)  # fmt: skip
_NEVER_RESTORED = (*DEFAULT_PORTS, *TOKEN_SETTINGS, "FLOWER_USER")
"""The settings that the kept file shows to people, and that must be given at every start."""
_RUN_SETTINGS = (
    "MINIO_REGION", "SOURCE_BUCKET", "OUTPUT_BUCKET", "SWEEP_INTERVAL_S", "IMAGES", "PUBLIC_OUTPUT",
    "ZIP_NAMES", "MINIO_API_ROOT_ACCESS", "API_PORT",
)  # fmt: skip
"""The settings that `rowdrop` must use as the running processes do."""
# Also keeps credentials of other applications (AWS_SECRET_ACCESS_KEY, …) from Rowdrop's processes.
_SECRET_NAME = re.compile(
    r"(?i)password|passwd|secret|token|access_key|private_key|api_key|credential"
)


@dataclass(frozen=True)
class Configuration:
    """The complete settings of one run.

    `values` contains no credentials.  `settings_of` returns those of one process.
    """

    values: dict[str, str] = field(repr=False)
    credentials: Credentials

    @property
    def owns_minio(self) -> bool:
        """Whether Rowdrop starts its own MinIO."""
        return self.credentials.owns_minio

    @property
    def owns_redis(self) -> bool:
        """Whether Rowdrop starts its own Redis."""
        return self.credentials.owns_redis

    def port(self, name: str) -> int:
        """Return the port with this name in `DEFAULT_PORTS`.

        Raises `KeyError` for a server that Rowdrop does not start.
        """
        return int(self.values[name])

    @property
    def event_redis(self) -> RedisAddress:
        """The address and user with which MinIO connects to Redis."""
        return RedisAddress.from_url(self.credentials.redis_urls["minio"])

    @property
    def buckets(self) -> Buckets:
        """The source bucket and the output bucket."""
        source = self.values.get("SOURCE_BUCKET", "src-data")
        return Buckets(source, self.values.get("OUTPUT_BUCKET", "processed-data"))

    @property
    def source_bucket(self) -> str:
        """The bucket into which files are dropped."""
        return self.buckets.source

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the credentials of one of `PROCESSES`, and MinIO's address."""
        return {
            "MINIO_ENDPOINT": self.values["MINIO_ENDPOINT"],
            **self.credentials.settings_of(process),
        }


def remove_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without credentials.

    Removed are Rowdrop's own credentials, variables with a name that looks like a secret, and all
    variables of MinIO except MINIO_REGION.
    """
    return {name: value for name, value in environment.items() if not _may_hold_secret(name)}


def select_minio_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the MINIO_* variables that are not settings of Rowdrop.

    The user has set them to configure MinIO itself.
    """
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("MINIO_") and not _is_rowdrop_setting(name)
    }


def _may_hold_secret(name: str) -> bool:
    if _is_rowdrop_setting(name) or _SECRET_NAME.search(name):
        return True
    return name.startswith("MINIO_") and name != "MINIO_REGION"


def _is_rowdrop_setting(name: str) -> bool:
    return name.removesuffix("_FILE") in {*SECRET_SETTINGS, "MINIO_ENDPOINT"}


def read_given_settings(environment: Mapping[str, str], project_env: Path) -> dict[str, str]:
    """Return the settings from the environment, completed from the checkout's `.env`.

    Empty values count as not set.  For Rowdrop's settings, the content of the file in `<NAME>_FILE`
    is used as the value.  Raises `StartupError` if that file cannot be read.
    """
    file_settings = dotenv_values(project_env, interpolate=False) if project_env.exists() else {}
    given = {name: value for name, value in (file_settings | dict(environment)).items() if value}
    for name in _FILE_SETTINGS:
        path = given.pop(f"{name}_FILE", None)
        if path:
            try:
                given[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise StartupError(f"cannot read {name}_FILE={path}: {error.strerror}.") from error
    return given


def build_configuration(
    given: Mapping[str, str], saved: Mapping[str, str], report: Callable[[str], None]
) -> Configuration:
    """Return the configuration of this run.

    The `given` settings are completed with those that an earlier run has `saved`, then with new
    secrets and free ports.  `report` gets a line for each kept or default port that is in use.
    Raises `StartupError` if a given port is in use, or a given address or credential is not valid.
    """
    # The user may have sourced the kept file into the environment.  Such values are not `given`.
    saved_names = {
        name
        for name, value in given.items()
        if name not in _NEVER_RESTORED and saved.get(name) == value
    }
    if not {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"} <= saved_names:
        # If one of them differs from the kept value, the user has set both.
        saved_names -= {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"}
    given = {name: value for name, value in given.items() if name not in saved_names}
    # An external server needs no local port.
    unused_ports = {"MINIO_PORT", "MINIO_CONSOLE_PORT"} if given.get("MINIO_ENDPOINT") else set()
    if given.get("REDIS_URL"):
        unused_ports.add("REDIS_PORT")
    unused_ports |= {name for name in OPTIONAL_PORTS if name not in given}
    excluded_names = {*unused_ports, *SECRET_SETTINGS}
    values = {name: value for name, value in given.items() if name not in excluded_names}
    values.update(_choose_ports(given, saved, set(DEFAULT_PORTS) - unused_ports, report))
    if given.get("REDIS_URL"):
        RedisAddress.from_url(given["REDIS_URL"])
    try:
        redis_address = f"{HOST}:{values.get('REDIS_PORT', '')}"
        credentials = Credentials.complete(given, saved, redis_address, time.time())
    except InvalidCredentials as error:
        raise StartupError(str(error)) from error
    if credentials.owns_minio:
        values["MINIO_ENDPOINT"] = f"http://{HOST}:{values['MINIO_PORT']}"
    return Configuration(values, credentials)


def list_page_links(values: Mapping[str, str]) -> str:
    """Return PAGE_LINKS: the given value, or the addresses of MinIO's console and of Flower.

    Each of these is a link only if it is started.
    """
    names = {"MINIO_CONSOLE_PORT": "MinIO's console", "FLOWER_PORT": "Flower"}
    links = [
        f"{title}=http://{HOST}:{values[name]}" for name, title in names.items() if name in values
    ]
    return values.get("PAGE_LINKS") or ",".join(links)


def save_configuration(configuration: Configuration, path: Path) -> None:
    """Write the secrets and ports of Rowdrop's own servers to `path` for the next run.

    Only the owner can read the file.  It also contains the settings for people: MINIO_ACCESS_KEY
    and MINIO_SECRET_KEY belong to the user that may drop files.  Nothing is written about external
    servers.  Entries that an earlier run kept for Rowdrop's own servers are preserved.
    """
    values = configuration.values
    credentials = configuration.credentials
    kept_names = {*_SAVED_SETTINGS, *DEFAULT_PORTS} - set(OPTIONAL_PORTS)
    saved = load_saved_settings(path)
    already_saved = {name: value for name, value in saved.items() if name in kept_names}
    ports = {name: value for name, value in values.items() if name in DEFAULT_PORTS}
    own_settings = ports | credentials.settings_to_keep()
    user_credentials = credentials.settings_for_people()
    if configuration.owns_minio:
        own_settings["MINIO_ENDPOINT"] = values["MINIO_ENDPOINT"]
    else:
        user_credentials = {
            name: value for name, value in user_credentials.items() if not name.startswith("MINIO_")
        }
    # A shell and dotenv both read these lines.  Values that the two would read differently are
    # skipped.  Only a given value can contain such characters, and the next run gets it again.
    lines = [
        f"{name}='{value}'"
        for name, value in (already_saved | user_credentials | own_settings).items()
        if not set(value) & set("'\\\n")
    ]
    comment = (
        "# Generated by run.sh: addresses and secrets.  "
        f"Remove one of {', '.join(_SAVED_SETTINGS)} to generate a new one."
    )
    write_private_file(path, "\n".join([comment, *sorted(lines)]) + "\n")


def save_settings_of_run(configuration: Configuration, path: Path) -> None:
    """Write the settings of this run that are no credentials, for `rowdrop`."""
    values = configuration.values
    lines = [f"{name}={shlex.quote(values[name])}" for name in _RUN_SETTINGS if name in values]
    comment = "# Written by run.sh at each start, for ./rowdrop."
    write_private_file(path, "\n".join([comment, *lines]) + "\n")


def load_saved_settings(path: Path) -> dict[str, str]:
    """Return the settings that `save_configuration` wrote, or none before the first run."""
    file_settings = dotenv_values(path, interpolate=False) if path.exists() else {}
    return {name: value for name, value in file_settings.items() if value}


def _choose_ports(
    given: Mapping[str, str],
    saved: Mapping[str, str],
    needed_ports: set[str],
    report: Callable[[str], None],
) -> dict[str, str]:
    """Choose a free port for each name in `needed_ports`, or check the given one."""
    chosen: dict[str, str] = {}
    requested = {
        name: _parse_port(name, given[name])
        for name in DEFAULT_PORTS
        if name in needed_ports and name in given
    }
    # Check the given ports first, so that no default takes one of them.
    for name, port in requested.items():
        if str(port) in chosen.values():
            raise StartupError(
                f"{name}={port} is the number of another port setting.  "
                f"Set {name} to a different one."
            )
        if not is_port_free(port):
            raise StartupError(
                f"port {port} is in use by another program.  "
                f"Set {name} to another port, or unset it."
            )
        chosen[name] = str(port)
    for name, default in DEFAULT_PORTS.items():
        if name in needed_ports and name not in requested:
            taken = {int(port) for port in chosen.values()}
            chosen[name] = str(_choose_free_port(name, saved, default, taken, report))
    return chosen


def _parse_port(name: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise StartupError(
            f"{name}={value} is not a valid port: set it to a number from 1 to 65535."
        )
    return int(value)


def _choose_free_port(
    name: str,
    saved: Mapping[str, str],
    default: int,
    chosen_ports: set[int],
    report: Callable[[str], None],
) -> int:
    saved_port = saved.get(name, "")
    preferred_port = int(saved_port) if saved_port.isdecimal() else default
    candidates = [preferred_port, *range(default, 65536)]
    port: int = next(port for port in candidates if port not in chosen_ports and is_port_free(port))
    if port != preferred_port:
        report(f"Port {preferred_port} is in use: {name} is {port} in this run.")
    return port
