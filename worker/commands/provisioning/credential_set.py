"""The credentials of one Rowdrop installation.

Credentials that the user gives take precedence over those that an earlier start kept; the rest is
generated.  Each process gets only the credentials that it needs (`PROCESSES`).  `local` (run.sh)
and `worker.commands.provisioning.credential_files` (docker compose) both build on this module.
"""

import re
import secrets
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from shared.formats.records import Buckets
from shared.tokens import (
    InvalidToken,
    Token,
    TokenKind,
    check_distinct_tokens,
    check_token_value,
    parse_tokens,
)
from worker.commands.provisioning.server_users import REDIS_RULES, ServerUser, minio_policies

TOKEN_VALID_S = 100 * 365 * 86_400
"""Lifetime in seconds of the token for MinIO's metrics: 100 years, as MinIO's own tool sets it.  A
new password of the signing user revokes the token."""
FORMER_ROOT_USER = "rowdrop"
"""The root user's name in every installation of earlier versions; a random name replaces it."""

MINIO_ROLES = tuple(minio_policies(Buckets("", "")))
REDIS_ROLES = tuple(REDIS_RULES)
_FORMER_ROLES = frozenset({"beat"})
"""Roles of release 0.3.  Their users may be among those kept or given, and get no rights."""

TOKEN_SETTINGS = ("API_TOKEN", "API_TOKENS", "READ_TOKENS", "EVENTS_TOKEN")
GIVEN_SETTINGS = (
    "MINIO_ENDPOINT", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY", "MINIO_USERS", "MINIO_PROMETHEUS_TOKEN", "REDIS_URL", "REDIS_USERS",
    "FLOWER_USER", "FLOWER_PASSWORD", *TOKEN_SETTINGS,
)  # fmt: skip
"""The credentials that a user may set, and the addresses that select an external server."""

SECRET_SETTINGS = frozenset({*GIVEN_SETTINGS, "GENERATED_API_TOKEN"} - {"MINIO_ENDPOINT"})
"""Settings that a process gets only through `Credentials.settings_of`."""

SETTINGS_FILE = "settings.env"
"""The file in the data folder with the settings of the running Rowdrop, without credentials."""

PROCESSES: Mapping[str, tuple[str, ...]] = {
    "listener": ("minio", "redis", "metrics"),
    "worker": ("minio", "redis", "metrics"),
    "publisher": ("minio", "redis"),
    "flower": ("redis", "flower"),
    "api": ("minio", "redis", "tokens"),
    "loader": ("minio",),
    "init": ("minio", "redis", "root", "events"),
}
"""The kinds of credentials that each process gets."""


_NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{3,64}")
# Printable ASCII except spaces, quotes, commas and backslashes.
_PASSWORD_PATTERN = re.compile(r"[!#-&(-+\--\[\]-~]{8,128}")


EXIT_UNKNOWN_USERS = 5
"""Exit code of `rowdrop init` if MinIO lacks users and root may not sign in to create them."""


class InvalidCredentials(Exception):
    """A given credential cannot be used; the message names it, the reason and the remedy."""


@dataclass(frozen=True)
class Credentials:
    """All credentials of one installation.

    `minio` and `redis` map a role to its user, `redis_urls` a role to a URL with that user.
    `owns_minio` and `owns_redis` are true if Rowdrop starts that server itself.  With an external
    server all roles share the given user, except the roles in MINIO_USERS and REDIS_USERS.
    """

    root: ServerUser = field(repr=False)
    minio: Mapping[str, ServerUser] = field(repr=False)
    redis: Mapping[str, ServerUser] = field(repr=False)
    redis_urls: Mapping[str, str] = field(repr=False)
    prometheus_token: str = field(repr=False)
    flower: ServerUser = field(repr=False)
    tokens: Mapping[str, str] = field(repr=False)
    generated_api_token: str = field(repr=False)
    owns_minio: bool = True
    owns_redis: bool = True

    @classmethod
    def complete(
        cls, given: Mapping[str, str], saved: Mapping[str, str], redis_address: str, now: float
    ) -> Self:
        """Return the given credentials, completed first with the saved ones, then with new ones.

        `given` and `saved` map settings to values.  `redis_address` is `host:port` of the Redis
        that Rowdrop starts, `now` the time in Unix seconds.  Raises `InvalidCredentials`.
        """
        owns_minio = not given.get("MINIO_ENDPOINT")
        owns_redis = not given.get("REDIS_URL")
        _check_tokens(given)
        root = _choose_root(given, saved)
        redis = _complete_users(
            REDIS_ROLES, given.get("REDIS_USERS"), saved.get("REDIS_USERS"), "REDIS_USERS"
        )
        redis_urls = {
            role: _add_user_to_url(f"redis://{redis_address}/0", user)
            for role, user in redis.items()
        }
        if owns_redis:
            # `format_redis_acl` disables the user `default`, so no role may use that name.
            _check_distinct(redis, ServerUser("default", ""), "REDIS_USERS")
        else:
            given_users = parse_users(given.get("REDIS_USERS", ""), "REDIS_USERS")
            redis_urls = {
                role: _add_user_to_url(given["REDIS_URL"], given_users.get(role))
                for role in REDIS_ROLES
            }
        minio = _choose_minio_users(given, saved, root, owns_minio=owns_minio)
        # An external MinIO has no user for the metrics: the listener's key signs the token instead.
        signer = minio["metrics"] if owns_minio else minio["listener"]
        saved_flower_password = saved.get("FLOWER_PASSWORD")
        return cls(
            root=root,
            minio=minio,
            redis=redis,
            redis_urls=redis_urls,
            prometheus_token=given.get("MINIO_PROMETHEUS_TOKEN")
            or _sign_prometheus_token(signer, now),
            flower=ServerUser(
                given.get("FLOWER_USER") or "rowdrop",
                given.get("FLOWER_PASSWORD") or saved_flower_password or secrets.token_urlsafe(18),
            ),
            tokens={name: given[name] for name in TOKEN_SETTINGS if given.get(name)},
            generated_api_token=saved.get("GENERATED_API_TOKEN") or secrets.token_urlsafe(24),
            owns_minio=owns_minio,
            owns_redis=owns_redis,
        )

    def settings_to_keep(self) -> dict[str, str]:
        """Return the settings to store for the next start.

        Users of an external server are not stored.
        """
        settings = {
            "MINIO_ROOT_USER": self.root.name,
            "MINIO_ROOT_PASSWORD": self.root.password,
            "FLOWER_PASSWORD": self.flower.password,
            "GENERATED_API_TOKEN": self.generated_api_token,
        }
        if self.owns_minio:
            settings["MINIO_USERS"] = format_users(self.minio)
        if self.owns_redis:
            settings["REDIS_USERS"] = format_users(self.redis)
        return settings

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the credentials of one of `PROCESSES`, as settings."""
        kinds = {
            "minio": lambda: self._minio_settings(process),
            "redis": lambda: {"REDIS_URL": self.redis_urls[process]},
            "metrics": lambda: {"MINIO_PROMETHEUS_TOKEN": self.prometheus_token},
            "flower": lambda: {
                "FLOWER_USER": self.flower.name,
                "FLOWER_PASSWORD": self.flower.password,
            },
            "tokens": self._token_settings,
            # Its presence says that the store may send events to the API.
            "events": lambda: {
                name: value for name, value in self.tokens.items() if name == "EVENTS_TOKEN"
            },
            "root": self._root_settings,
        }
        return {name: value for kind in PROCESSES[process] for name, value in kinds[kind]().items()}

    def _minio_settings(self, role: str) -> dict[str, str]:
        user = self.minio[role]
        return {"MINIO_ACCESS_KEY": user.name, "MINIO_SECRET_KEY": user.password}

    def _root_settings(self) -> dict[str, str]:
        if not self.owns_minio:
            return {}
        return {
            "MINIO_ROOT_USER": self.root.name,
            "MINIO_ROOT_PASSWORD": self.root.password,
            "MINIO_USERS": format_users(self.minio),
        }

    def settings_for_people(self) -> dict[str, str]:
        """Return the settings for people: to drop files, call the API and sign in to Flower."""
        return {
            **self._minio_settings("drop"),
            "FLOWER_USER": self.flower.name,
            "FLOWER_PASSWORD": self.flower.password,
            **self._token_settings(),
        }

    @property
    def any_token(self) -> str:
        """A token that allows at least reading from the API."""
        settings = self._token_settings()
        write_tokens = parse_tokens(settings.get("API_TOKENS", ""), TokenKind.WRITE)
        return (
            settings.get("API_TOKEN")
            or settings.get("GENERATED_API_TOKEN")
            or write_tokens[0].value
        )

    def _token_settings(self) -> dict[str, str]:
        """Return the given tokens, and the generated token if none of them allows writing."""
        can_write = any(name in self.tokens for name in ("API_TOKEN", "API_TOKENS"))
        return (
            dict(self.tokens)
            if can_write
            else {**self.tokens, "GENERATED_API_TOKEN": self.generated_api_token}
        )


def parse_users(text: str, setting: str) -> dict[str, ServerUser]:
    """Parse `role=name:password` entries that are separated by commas or whitespace.

    `setting` is MINIO_USERS or REDIS_USERS.  Raises `InvalidCredentials` for an entry of another
    form, an unknown role, and a name or password with characters that are not allowed.
    """
    roles = MINIO_ROLES if setting == "MINIO_USERS" else REDIS_ROLES
    users = {}
    for entry in text.replace(",", " ").split():
        role, _, user = entry.partition("=")
        name, has_password, password = user.partition(":")
        if has_password and role in _FORMER_ROLES:
            continue
        if not has_password or role not in roles:
            known = ", ".join(roles)
            raise InvalidCredentials(
                f"{setting} must be entries of role=name:password; the roles are {known}."
            )
        _check_user(ServerUser(name, password), f"{setting}, {role}")
        users[role] = ServerUser(name, password)
    return users


def _check_user(user: ServerUser, setting: str) -> None:
    """Raise `InvalidCredentials` if a server or a file would not accept the name or the password.

    The message does not contain the password.
    """
    if not _NAME_PATTERN.fullmatch(user.name):
        raise InvalidCredentials(
            f"{setting}: the name must be 3 to 64 letters, digits, '.', '_' or '-'."
        )
    if not _PASSWORD_PATTERN.fullmatch(user.password):
        raise InvalidCredentials(
            f"{setting}: the password must be 8 to 128 printable ASCII characters, without spaces, "
            "commas, quotes and backslashes."
        )


def _check_distinct(users: Mapping[str, ServerUser], root: ServerUser, setting: str) -> None:
    """Raise `InvalidCredentials` if two roles share a user name, or one has the name of `root`.

    The roles have different permissions, so a shared user would have the wrong ones for one role.
    """
    names = Counter([root.name, *(user.name for user in users.values())])
    duplicates = sorted(name for name, count in names.items() if count > 1)
    if duplicates:
        raise InvalidCredentials(
            f"{setting}: {', '.join(duplicates)} is used more than once;"
            " each user needs its own name."
        )


def format_users(users: Mapping[str, ServerUser]) -> str:
    """Return the text that `parse_users` parses."""
    return ",".join(f"{role}={user.name}:{user.password}" for role, user in sorted(users.items()))


def _check_tokens(given: Mapping[str, str]) -> None:
    """Raise `InvalidCredentials` for a token that the API would reject when it starts."""
    tokens = []
    try:
        for name, kind in (("API_TOKEN", TokenKind.WRITE), ("EVENTS_TOKEN", TokenKind.EVENTS)):
            check_token_value(given.get(name, ""))
            tokens += [Token(name, given[name], kind)] if given.get(name) else []
        for name in ("API_TOKENS", "READ_TOKENS"):
            tokens += parse_tokens(given.get(name, ""), TokenKind(name))
        name = ", ".join(TOKEN_SETTINGS)
        check_distinct_tokens(tokens)
    except InvalidToken as error:
        raise InvalidCredentials(f"{name}: {error}.") from None


def _choose_root(given: Mapping[str, str], saved: Mapping[str, str]) -> ServerUser:
    generated = ServerUser.generate("root")
    names = (settings.get("MINIO_ROOT_USER") for settings in (given, saved))
    name = next((name for name in names if name and name != FORMER_ROOT_USER), generated.name)
    password = (
        given.get("MINIO_ROOT_PASSWORD") or saved.get("MINIO_ROOT_PASSWORD") or generated.password
    )
    if len(name) < 3 or len(password) < 8:
        raise InvalidCredentials(
            "MINIO_ROOT_USER needs at least 3 characters and MINIO_ROOT_PASSWORD at least 8."
        )
    return ServerUser(name, password)


def _choose_minio_users(
    given: Mapping[str, str], saved: Mapping[str, str], root: ServerUser, *, owns_minio: bool
) -> dict[str, ServerUser]:
    access_key = given.get("MINIO_ACCESS_KEY")
    secret_key = given.get("MINIO_SECRET_KEY")
    if bool(access_key) != bool(secret_key):
        raise InvalidCredentials(
            "MINIO_ACCESS_KEY and MINIO_SECRET_KEY must be given together, or neither of them."
        )
    if not owns_minio:
        if not (access_key and secret_key):
            raise InvalidCredentials(
                "MINIO_ENDPOINT is given, so MINIO_ACCESS_KEY and MINIO_SECRET_KEY are required."
            )
        common_users = dict.fromkeys(MINIO_ROLES, ServerUser(access_key, secret_key))
        return common_users | parse_users(given.get("MINIO_USERS", ""), "MINIO_USERS")
    users = _complete_users(
        MINIO_ROLES, given.get("MINIO_USERS"), saved.get("MINIO_USERS"), "MINIO_USERS"
    )
    # In an environment of an earlier version these are root's keys: never give them to people.
    if access_key and secret_key and access_key not in {root.name, FORMER_ROOT_USER}:
        users["drop"] = ServerUser(access_key, secret_key)
        _check_user(users["drop"], "MINIO_ACCESS_KEY and MINIO_SECRET_KEY")
    _check_distinct(users, root, "MINIO_USERS and MINIO_ACCESS_KEY")
    return users


def _complete_users(
    roles: tuple[str, ...], given: str | None, saved: str | None, setting: str
) -> dict[str, ServerUser]:
    known = parse_users(saved or "", setting) | parse_users(given or "", setting)
    return {role: known.get(role) or ServerUser.generate(role) for role in roles}


def _add_user_to_url(url: str, user: ServerUser | None) -> str:
    if user is None:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    # Names and passwords may contain characters that have a meaning in URLs.
    return parts._replace(
        netloc=f"{quote(user.name, safe='')}:{quote(user.password, safe='')}@{host}"
    ).geturl()


def parse_redis_user(url: str) -> ServerUser:
    """Return the user name and password in a Redis URL, each empty if it is missing."""
    parts = urlsplit(url)
    return ServerUser(unquote(parts.username or ""), unquote(parts.password or ""))


def _sign_prometheus_token(signer: ServerUser, now: float) -> str:
    """Return a JWT that gives access to MinIO's metrics.

    The format is that of MinIO's cmd/jwt.go: HS512 with the secret key, the access key as subject.
    """
    claims = {"exp": int(now) + TOKEN_VALID_S, "sub": signer.name, "iss": "prometheus"}
    # The key may be shorter than RFC 7518 requires for HS512, but MinIO prescribes the algorithm.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return jwt.encode(claims, signer.password, algorithm="HS512")
