"""What this run is set to: the environment first, then the checkout's `.env`, then what `$ROWDROP_DIR/.env` keeps."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from local.errors import CannotRun
from local.ports import HOST, is_free
from local.servers import write_private
from shared.records import Buckets
from worker.credential_set import GIVEN, SECRET_SETTINGS, Credentials, InvalidCredentials

PORTS = {"API_PORT": 8080, "MINIO_PORT": 9000, "MINIO_CONSOLE_PORT": 9001, "REDIS_PORT": 6379, "FLOWER_PORT": 5555}
"""The ports, each with the number taken when it is free and nobody asked for another."""

_NAMES = (*GIVEN, *PORTS)
_KEPT = (
    "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_USERS", "REDIS_USERS", "FLOWER_PASSWORD", "GENERATED_API_TOKEN",
)  # fmt: skip
_LOOKS_SECRET = re.compile(r"(?i)password|passwd|secret|token|access_key|private_key|api_key|credential")


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is and how to get in, as MinIO's notification target can use it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Raises `CannotRun` for what MinIO's Redis target cannot reach: TLS, a unix socket, another database."""
        parts = urlsplit(url)
        if parts.scheme != "redis" or not parts.hostname or parts.path not in {"", "/", "/0"} or parts.query:
            raise CannotRun(
                "REDIS_URL must be redis://[:password@]host[:port]/0: MinIO sends its events to Redis over plain TCP\n"
                "and into database 0 only.  Correct it, or unset it: then Rowdrop starts a Redis of its own."
            )
        return cls(parts.hostname, parts.port or 6379, unquote(parts.username or ""), unquote(parts.password or ""))


@dataclass(frozen=True)
class Configuration:
    """The settings of one run, complete.  `values` holds no credentials: each process gets its own of `credentials`."""

    values: dict[str, str] = field(repr=False)
    credentials: Credentials

    @property
    def own_minio(self) -> bool:
        """Whether we start MinIO."""
        return self.credentials.owns_minio

    @property
    def own_redis(self) -> bool:
        """Whether we start Redis."""
        return self.credentials.owns_redis

    def port(self, name: str) -> int:
        """The port with this name of `PORTS`."""
        return int(self.values[name])

    @property
    def redis_of_minio(self) -> RedisAddress:
        """The Redis of this run, ours or not, as MinIO reaches it."""
        return RedisAddress.from_url(self.credentials.redis_urls["minio"])

    @property
    def buckets(self) -> Buckets:
        """The buckets that files are dropped into, and that hold the results."""
        source = self.values.get("SOURCE_BUCKET", "src-data")
        return Buckets(source, self.values.get("OUTPUT_BUCKET", "processed-data"))

    @property
    def source_bucket(self) -> str:
        """The bucket that users drop their files into."""
        return self.buckets.source

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the credentials of one of `PROCESSES`, and the address of MinIO."""
        return {"MINIO_ENDPOINT": self.values["MINIO_ENDPOINT"], **self.credentials.settings_of(process)}


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without our credentials, and without what by its name is one of something else."""
    return {
        name: value
        for name, value in environment.items()
        if not _is_ours(name)
        and not _LOOKS_SECRET.search(name)
        and (name == "MINIO_REGION" or not name.startswith("MINIO_"))
    }


def for_minio(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of MINIO_* that are not ours: those that somebody has given to MinIO itself."""
    return {name: value for name, value in environment.items() if name.startswith("MINIO_") and not _is_ours(name)}


def _is_ours(name: str) -> bool:
    return name.removesuffix("_FILE") in {*SECRET_SETTINGS, "MINIO_ENDPOINT"}


def from_outside(environment: Mapping[str, str], project_env: Path) -> dict[str, str]:
    """What the user has set: the environment, completed by the checkout's `.env`.  Empty values count as not set.

    A `<NAME>_FILE` is read in place of a name of ours.  Raises `CannotRun` when it cannot be.
    """
    read = dotenv_values(project_env, interpolate=False) if project_env.exists() else {}
    given = {name: value for name, value in (read | dict(environment)).items() if value}
    for name in _NAMES:
        path = given.pop(f"{name}_FILE", None)
        if path:
            try:
                given[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise CannotRun(f"{name}_FILE={path} cannot be read: {error.strerror}.") from error
    return given


def configure(given: Mapping[str, str], kept: Mapping[str, str], report: Callable[[str], None]) -> Configuration:
    """Complete what was `given` from outside by what an earlier run has `kept`, and that by new secrets and free ports.

    Raises `CannotRun` when a port that was asked for is taken, or an address or a credential cannot be used.
    """
    # Someone may have sourced the file we keep: what comes from there is ours, and not given.
    own = {name for name, value in given.items() if name not in PORTS and kept.get(name) == value}
    if not {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"} <= own:
        own -= {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"}  # one of them is another one: both are given
    given = {name: value for name, value in given.items() if name not in own}
    unused = {"MINIO_PORT", "MINIO_CONSOLE_PORT"} if given.get("MINIO_ENDPOINT") else set()
    unused |= {"REDIS_PORT"} if given.get("REDIS_URL") else set()
    values = {name: value for name, value in given.items() if name not in {*unused, *SECRET_SETTINGS}}
    values.update(_ports(given, kept, set(PORTS) - unused, report))
    if given.get("REDIS_URL"):
        RedisAddress.from_url(given["REDIS_URL"])
    try:
        credentials = Credentials.complete(given, kept, f"{HOST}:{values.get('REDIS_PORT', '')}", time.time())
    except InvalidCredentials as error:
        raise CannotRun(str(error)) from error
    if credentials.owns_minio:
        values["MINIO_ENDPOINT"] = f"http://{HOST}:{values['MINIO_PORT']}"
    return Configuration(values, credentials)


def keep(configuration: Configuration, path: Path) -> None:
    """Write the secrets and addresses of what is ours to `path`, readable by its owner only, for the next run to find.

    With them stands what people need: MINIO_ACCESS_KEY and MINIO_SECRET_KEY are of the user who may drop files.  Of
    servers that are not ours nothing is written; what an earlier run kept of our own stays.
    """
    values, credentials = configuration.values, configuration.credentials
    known = {name: value for name, value in kept_in(path).items() if name in {*_KEPT, *PORTS}}
    ours = {name: value for name, value in values.items() if name in PORTS} | credentials.to_keep()
    people = credentials.for_people()
    if configuration.own_minio:
        ours["MINIO_ENDPOINT"] = values["MINIO_ENDPOINT"]
    else:
        people = {name: value for name, value in people.items() if not name.startswith("MINIO_")}
    # Both a shell and dotenv read these lines; what they would read differently was given, and will be given again.
    lines = [f"{name}='{value}'" for name, value in (known | people | ours).items() if not set(value) & set("'\\\n")]
    head = f"# Generated by run.sh: addresses and secrets.  Remove one of {', '.join(_KEPT)} to have it made anew."
    write_private(path, "\n".join([head, *sorted(lines)]) + "\n")


def kept_in(path: Path) -> dict[str, str]:
    """What `keep` wrote; nothing before the first run."""
    read = dotenv_values(path, interpolate=False) if path.exists() else {}
    return {name: value for name, value in read.items() if value}


def _ports(
    given: Mapping[str, str], kept: Mapping[str, str], needed: set[str], report: Callable[[str], None]
) -> dict[str, str]:
    chosen: dict[str, str] = {}
    asked = {name: _asked_for(name, given[name]) for name in PORTS if name in needed and name in given}
    for name, port in asked.items():
        if str(port) in chosen.values():
            raise CannotRun(f"{name}={port} is given to another port already.  Set {name} to a number of its own.")
        if not is_free(port):
            raise CannotRun(f"port {port} is taken by another program.  Set {name} to another one, or unset it.")
        chosen[name] = str(port)
    for name, default in PORTS.items():
        if name in needed and name not in asked:
            chosen[name] = str(_next_free(name, kept, default, {int(port) for port in chosen.values()}, report))
    return chosen


def _asked_for(name: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise CannotRun(f"{name}={value} is no port: set it to a number from 1 to 65535.")
    return int(value)


def _next_free(name: str, kept: Mapping[str, str], default: int, taken: set[int], report: Callable[[str], None]) -> int:
    first = kept.get(name, "")
    wish = int(first) if first.isdecimal() else default
    candidates = [wish, *range(default, 65536)]
    port: int = next(port for port in candidates if port not in taken and is_free(port))
    if port != wish:
        report(f"Port {wish} is taken: {name} is {port} this time.")
    return port
