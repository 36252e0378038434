"""What this run is set to: the environment first, then the checkout's `.env`, then what `$ROWDROP_DIR/.env` keeps."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from local.errors import CannotRun
from local.ports import HOST, is_free
from local.servers import write_private

PORTS = {"API_PORT": 8080, "MINIO_PORT": 9000, "MINIO_CONSOLE_PORT": 9001, "REDIS_PORT": 6379, "FLOWER_PORT": 5555}
"""The ports, each with the number taken when it is free and nobody asked for another."""

_SECRETS = ("MINIO_ROOT_PASSWORD", "MINIO_SECRET_KEY", "REDIS_URL", "FLOWER_PASSWORD")
_NAMES = (*_SECRETS, "MINIO_ENDPOINT", "MINIO_ROOT_USER", "MINIO_ACCESS_KEY", "FLOWER_USER", *PORTS)


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
    """The settings of one run, complete.  `own_*`: whether we start that server."""

    values: dict[str, str] = field(repr=False)
    own_minio: bool
    own_redis: bool

    def port(self, name: str) -> int:
        """The port with this name of `PORTS`."""
        return int(self.values[name])

    @property
    def redis(self) -> RedisAddress:
        """The Redis of this run, ours or not."""
        return RedisAddress.from_url(self.values["REDIS_URL"])

    @property
    def source_bucket(self) -> str:
        """The bucket that users drop their files into."""
        return self.values.get("SOURCE_BUCKET", "src-data")


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

    Raises `CannotRun` when a port that was asked for is taken, or an address cannot be used.
    """
    # Someone may have sourced the file we keep: an address that comes from there is our own server's.
    own_minio = given.get("MINIO_ENDPOINT") in {None, kept.get("MINIO_ENDPOINT")}
    own_redis = given.get("REDIS_URL") in {None, kept.get("REDIS_URL")}
    unused = {"MINIO_PORT", "MINIO_CONSOLE_PORT"} if not own_minio else set()
    unused |= {"REDIS_PORT"} if not own_redis else set()
    values = {name: value for name, value in given.items() if name not in unused}
    values.update(_ports(given, kept, set(PORTS) - unused, report))
    values.setdefault("FLOWER_USER", "rowdrop")
    values.setdefault("FLOWER_PASSWORD", kept.get("FLOWER_PASSWORD") or secrets.token_urlsafe(18))
    if own_minio:
        _complete_minio(values, kept)
    elif not (given.get("MINIO_ACCESS_KEY") and given.get("MINIO_SECRET_KEY")):
        raise CannotRun("MINIO_ENDPOINT is given, so MINIO_ACCESS_KEY and MINIO_SECRET_KEY must be, too.")
    if own_redis:
        old = RedisAddress.from_url(kept["REDIS_URL"]).password if "REDIS_URL" in kept else ""
        values["REDIS_URL"] = f"redis://:{old or secrets.token_urlsafe(24)}@{HOST}:{values['REDIS_PORT']}/0"
    RedisAddress.from_url(values["REDIS_URL"])
    return Configuration(values, own_minio, own_redis)


def keep(configuration: Configuration, path: Path) -> None:
    """Write the secrets and addresses of what is ours to `path`, readable by its owner only, for the next run to find.

    Of servers that are not ours nothing is written; what an earlier run kept of our own stays.
    """
    theirs: set[str] = set()
    if not configuration.own_minio:
        theirs |= {name for name in _NAMES if name.startswith("MINIO_")}
    if not configuration.own_redis:
        theirs |= {"REDIS_URL", "REDIS_PORT"}
    ours = {name: value for name, value in configuration.values.items() if name in _NAMES and name not in theirs}
    # Both a shell and dotenv read these lines; what they would read differently was given, and will be given again.
    lines = [f"{name}='{value}'" for name, value in (kept_in(path) | ours).items() if not set(value) & set("'\\\n")]
    head = "# Generated by run.sh: addresses and secrets of this Rowdrop.  Remove a line to have it made anew."
    write_private(path, "\n".join([head, *sorted(lines)]) + "\n")


def kept_in(path: Path) -> dict[str, str]:
    """What `keep` wrote; nothing before the first run."""
    read = dotenv_values(path, interpolate=False) if path.exists() else {}
    return {name: value for name, value in read.items() if value}


def _complete_minio(values: dict[str, str], kept: Mapping[str, str]) -> None:
    values.setdefault("MINIO_ROOT_USER", kept.get("MINIO_ROOT_USER") or "rowdrop")
    values.setdefault("MINIO_ROOT_PASSWORD", kept.get("MINIO_ROOT_PASSWORD") or secrets.token_urlsafe(24))
    if len(values["MINIO_ROOT_USER"]) < 3 or len(values["MINIO_ROOT_PASSWORD"]) < 8:
        raise CannotRun("MINIO_ROOT_USER needs at least 3 characters and MINIO_ROOT_PASSWORD at least 8, says MinIO.")
    values.setdefault("MINIO_ACCESS_KEY", values["MINIO_ROOT_USER"])
    values.setdefault("MINIO_SECRET_KEY", values["MINIO_ROOT_PASSWORD"])
    values["MINIO_ENDPOINT"] = f"http://{HOST}:{values['MINIO_PORT']}"


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
