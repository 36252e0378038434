"""The credentials of a Rowdrop in containers: `python -m worker.credentials`, before any server starts.

What the environment does not give is generated, once, and kept.  Each server gets it in the form it reads: MinIO a file
of variables, Redis its configuration, our own processes a file for each setting (`<NAME>_FILE`).  The folders that the
servers write to are tried, so that one that cannot be written is told of by its name, here, and not by a server's log.

`--show` prints them for a person, as lines that a shell can source; `--renew` generates new ones.
"""

import argparse
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import jwt
from dotenv import dotenv_values
from jwt.warnings import InsecureKeyLengthWarning

HOME = Path("/run/rowdrop")
"""The volume that all containers see, and only this one writes to."""
MINIO_HOME, REDIS_HOME = Path("/srv/minio"), Path("/srv/redis")
KEPT = "kept.env"
TOKEN_VALID_S = 100 * 365 * 86_400
"""MinIO's own tool makes them for a hundred years; changing the password ends them."""

_GIVEN = (
    "MINIO_ROOT_USER",
    "MINIO_ROOT_PASSWORD",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
    "MINIO_PROMETHEUS_TOKEN",
    "REDIS_URL",
    "FLOWER_USER",
    "FLOWER_PASSWORD",
    "API_TOKEN",
)


class CannotPrepare(Exception):
    """A credential or a folder cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Credentials:
    """All of them.  Without a MinIO of one's own `access_key` and `secret_key` are root's."""

    root_user: str
    root_password: str
    access_key: str
    secret_key: str
    prometheus_token: str
    redis_url: str
    flower_user: str
    flower_password: str
    api_token: str

    @classmethod
    def complete(cls, given: Mapping[str, str], kept: Mapping[str, str], now: float) -> Self:
        """What was given, completed by what is kept, and that by new ones.  Raises `CannotPrepare`."""
        root_user = given.get("MINIO_ROOT_USER") or "rowdrop"
        root_password = given.get("MINIO_ROOT_PASSWORD") or kept.get("MINIO_ROOT_PASSWORD") or secrets.token_urlsafe(24)
        access_key = given.get("MINIO_ACCESS_KEY") or root_user
        secret_key = given.get("MINIO_SECRET_KEY") or root_password
        if len(root_user) < 3 or len(root_password) < 8:
            raise CannotPrepare("MINIO_ROOT_USER needs at least 3 characters and MINIO_ROOT_PASSWORD at least 8.")
        if bool(given.get("MINIO_ACCESS_KEY")) != bool(given.get("MINIO_SECRET_KEY")):
            raise CannotPrepare("MINIO_ACCESS_KEY and MINIO_SECRET_KEY must be given together, or neither of them.")
        redis_password = kept.get("REDIS_PASSWORD") or secrets.token_urlsafe(24)
        return cls(
            root_user,
            root_password,
            access_key,
            secret_key,
            given.get("MINIO_PROMETHEUS_TOKEN") or _prometheus_token(access_key, secret_key, now),
            given.get("REDIS_URL") or f"redis://:{redis_password}@redis:6379/0",
            given.get("FLOWER_USER") or "rowdrop",
            given.get("FLOWER_PASSWORD") or kept.get("FLOWER_PASSWORD") or secrets.token_urlsafe(18),
            given.get("API_TOKEN") or "",
        )

    @property
    def redis_password(self) -> str:
        """The one in the URL."""
        return unquote(urlsplit(self.redis_url).password or "")

    def files(self) -> dict[str, str]:
        """Name to content: a file for each reader."""
        return {
            "minio.env": _lines(self._minio_variables()),
            "redis.conf": self._redis_conf(),
            "redis_password": self.redis_password,
            "redis_url": self.redis_url,
            "minio_access_key": self.access_key,
            "minio_secret_key": self.secret_key,
            "minio_prometheus_token": self.prometheus_token,
            "flower_password": self.flower_password,
            "api_token": self.api_token,
            KEPT: _lines(
                {
                    "MINIO_ROOT_PASSWORD": self.root_password,
                    "REDIS_PASSWORD": self.redis_password,
                    "FLOWER_PASSWORD": self.flower_password,
                }
            ),
        }

    def _minio_variables(self) -> dict[str, str]:
        """What MinIO may only be told by a file, and both its event targets (the rest is in docker-compose.yml)."""
        url = urlsplit(self.redis_url)
        target = {
            "ADDRESS": f"{url.hostname}:{url.port or 6379}",
            "USER": unquote(url.username or ""),
            "PASSWORD": self.redis_password,
        }
        return {"MINIO_ROOT_USER": self.root_user, "MINIO_ROOT_PASSWORD": self.root_password} | {
            f"MINIO_NOTIFY_REDIS_{name}_{target_id}": value
            for target_id in ("FAST", "SAFE")
            for name, value in target.items()
            if value
        }

    def _redis_conf(self) -> str:
        return "\n".join(
            [
                f'requirepass "{self.redis_password}"',
                "port 6379",
                "bind * -::*",
                f"dir {REDIS_HOME / 'data'}",
                "appendonly yes",
                "appendfsync everysec",
                'save ""',
                "maxmemory-policy noeviction",
                "",
            ]
        )

    def shown(self, minio_endpoint: str) -> str:
        """For a person, and for a shell: `source <(… --show)`."""
        return _lines(
            {
                "MINIO_ENDPOINT": minio_endpoint,
                "MINIO_ACCESS_KEY": self.access_key,
                "MINIO_SECRET_KEY": self.secret_key,
                "FLOWER_USER": self.flower_user,
                "FLOWER_PASSWORD": self.flower_password,
                **({"API_TOKEN": self.api_token} if self.api_token else {}),
            }
        )


def prepare(home: Path, given: Mapping[str, str], now: float, *, renew: bool = False) -> Credentials:
    """Write all files into `home`, readable by the owner alone.  `renew`: generate what is not given anew."""
    kept = {} if renew else {name: value for name, value in dotenv_values(home / KEPT).items() if value}
    credentials = Credentials.complete(given, kept, now)
    for name, content in credentials.files().items():
        path, new = home / name, home / f"{name}.new"
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(content)
        new.replace(path)
    return credentials


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


def _prometheus_token(access_key: str, secret_key: str, now: float) -> str:
    """What opens MinIO's metrics (cmd/jwt.go of MinIO: HS512 by the secret key, the access key as subject)."""
    claims = {"exp": int(now) + TOKEN_VALID_S, "sub": access_key, "iss": "prometheus"}
    with warnings.catch_warnings():  # of a key shorter than RFC 7518 wants for HS512; how to sign is MinIO's choice
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return jwt.encode(claims, secret_key, algorithm="HS512")


def _lines(values: Mapping[str, str]) -> str:
    for name, value in values.items():
        if set(value) & set("'\"\\\r\n"):
            raise CannotPrepare(f"{name} must be without quotes, backslashes and line breaks.")
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def main() -> None:
    """Prepare, or show; exit 1 with the reason if that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m worker.credentials", description="Credentials of the containers.")
    parser.add_argument("--show", action="store_true", help="print them")
    parser.add_argument("--renew", action="store_true", help="generate new ones; then recreate all containers")
    arguments = parser.parse_args()
    mounted = {
        HOME: os.environ.get("CREDENTIALS_VOLUME", "a volume"),
        MINIO_HOME: os.environ.get("MINIO_VOLUME", "a volume"),
        REDIS_HOME: os.environ.get("REDIS_VOLUME", "a volume"),
    }
    given = {name: os.environ[name] for name in _GIVEN if os.environ.get(name)}
    try:
        folders = [HOME, *(MINIO_HOME / name for name in ("data", "queue", "certs")), REDIS_HOME / "data"]
        make_folders(folders, mounted)
        credentials = prepare(HOME, given, time.time(), renew=arguments.renew)
        if arguments.show:
            own = f"http://127.0.0.1:{os.environ.get('MINIO_PORT', '9000')}"
            print(credentials.shown(os.environ.get("MINIO_ENDPOINT") or own), end="")
    except CannotPrepare as error:
        sys.exit(f"rowdrop: {error}")


if __name__ == "__main__":
    main()
