"""Rowdrop's settings, read from environment variables and validated.

Each variable may also be given as `<NAME>_FILE`, the path of a file that holds the value.
"""

import codecs
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from environs import EnvValidationError, FileAwareEnv, ValidationError

from shared.tokens import (
    InvalidToken,
    Token,
    TokenKind,
    check_distinct_tokens,
    check_token_value,
    parse_tokens,
)

_HOST_NAME = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# No user and password before the host: every reader of the API gets the links.
_LINK_ADDRESS = re.compile(r"https?://[^\s/?#@]+(?:[/?#]\S*)?")

MAX_PUBLISH_INTERVAL_S = 20
"""Upper limit of PUBLISH_MIN_INTERVAL_S in seconds.

It must stay below `OVERDUE_S` (30 s), or users with a pending result are enqueued and read again.
"""


class InvalidSettings(Exception):
    """Environment variables are missing or invalid; the message names them, and never a value."""


class PageLink(NamedTuple):
    """A link that the page shows."""

    title: str
    address: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses and credentials of the servers, and Rowdrop's options. `repr` shows no secrets."""

    minio_endpoint: str
    minio_access_key: str = field(repr=False)
    minio_secret_key: str = field(repr=False)
    redis_url: str = field(repr=False)
    source_bucket: str = "src-data"
    output_bucket: str = "processed-data"
    region: str = "us-east-1"
    ca_file: str = ""
    sweep_interval_s: int = 3600
    publish_min_interval_s: float = 0.0
    minio_prometheus_token: str = field(default="", repr=False)
    log_level: str = "INFO"
    api_token: str = field(default="", repr=False)
    api_tokens: tuple[Token, ...] = ()
    read_tokens: tuple[Token, ...] = ()
    generated_api_token: str = field(default="", repr=False)
    events_token: str = field(default="", repr=False)
    public_read: bool = False
    bind_address: str = "127.0.0.1"
    flower_user: str = "rowdrop"
    flower_password: str = field(default="", repr=False)
    minio_root_user: str = field(default="", repr=False)
    minio_root_password: str = field(default="", repr=False)
    minio_users: str = field(default="", repr=False)
    allow_root_access: bool = False
    progress_file: str = ""
    max_upload_mb: int = 20
    max_unpacked_mb: int = 20_000
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    page_links: tuple[PageLink, ...] = ()
    copy_images: bool = False
    public_output: bool = False
    zip_names: str = ""

    @classmethod
    def from_environment(cls, *, minio: bool = True, redis: bool = True) -> "Settings":
        """Read the process's environment.

        A process that does not use MinIO or Redis passes False and needs no credentials for that
        server. With CA_FILE all clients that the process creates later verify TLS servers by that
        file. Raises `InvalidSettings` with a message that lists all invalid variables together
        and says what each must be.
        """
        # eager=False collects all validation errors, and env.seal() raises them together.
        env = FileAwareEnv(eager=False, strip_whitespace=True)
        try:
            settings = cls(**cls._read_values(env, minio=minio, redis=redis))
            env.seal()
        except EnvValidationError as error:
            errors_by_name: Any = error.error_messages
            error_lines = "".join(
                f"\n  {name}: {' '.join(reasons)}" for name, reasons in errors_by_name.items()
            )
            message = f"environment variables are missing or invalid:{error_lines}"
            raise InvalidSettings(message) from None
        except ValueError as error:  # the file of a *_FILE variable cannot be read
            raise InvalidSettings(str(error)) from None
        if settings.source_bucket == settings.output_bucket:
            raise InvalidSettings("SOURCE_BUCKET and OUTPUT_BUCKET must be different buckets")
        try:
            check_distinct_tokens(settings.all_tokens)
        except InvalidToken as error:
            setting_names = "API_TOKEN, API_TOKENS, READ_TOKENS, GENERATED_API_TOKEN, EVENTS_TOKEN"
            raise InvalidSettings(f"{setting_names}: {error}") from None
        if settings.ca_file:
            # obstore, minio-py and urllib3 have no common option, but all read this variable.
            os.environ["SSL_CERT_FILE"] = settings.ca_file
        return settings

    @property
    def all_tokens(self) -> tuple[Token, ...]:
        """Return every token that the API accepts, from all settings."""
        unnamed_tokens = (
            Token("API_TOKEN", self.api_token, TokenKind.WRITE),
            Token("generated", self.generated_api_token, TokenKind.GENERATED),
            Token("EVENTS_TOKEN", self.events_token, TokenKind.EVENTS),
        )
        set_tokens = tuple(token for token in unnamed_tokens if token.value)
        return (*set_tokens, *self.api_tokens, *self.read_tokens)

    @staticmethod
    def _read_values(env: FileAwareEnv, *, minio: bool, redis: bool) -> dict[str, Any]:
        def read_required(name: str, validate: Callable[[str], None], *, is_used: bool) -> str:
            value: str = env.str(name, validate=validate) if is_used else ""
            return value

        # An invalid value is read as None. The caller's `env.seal` reports all of them together.
        return {
            "minio_endpoint": read_required("MINIO_ENDPOINT", _check_http_url, is_used=minio),
            "minio_access_key": read_required("MINIO_ACCESS_KEY", _check_not_empty, is_used=minio),
            "minio_secret_key": read_required("MINIO_SECRET_KEY", _check_not_empty, is_used=minio),
            "redis_url": read_required("REDIS_URL", _check_redis_url, is_used=redis),
            "source_bucket": env.str("SOURCE_BUCKET", "src-data", validate=_check_bucket),
            "output_bucket": env.str("OUTPUT_BUCKET", "processed-data", validate=_check_bucket),
            "region": env.str("MINIO_REGION", "us-east-1", validate=_check_not_empty),
            # Only containers that use MinIO have the file.
            "ca_file": env.str("CA_FILE", "", validate=_check_ca_file) if minio else "",
            "sweep_interval_s": env.int("SWEEP_INTERVAL_S", 3600, validate=_check_positive),
            "publish_min_interval_s": env.float(
                "PUBLISH_MIN_INTERVAL_S", 0, validate=_check_publish_interval
            ),
            "minio_prometheus_token": env.str("MINIO_PROMETHEUS_TOKEN", ""),
            "log_level": env.str("LOG_LEVEL", "INFO", validate=_check_log_level),
            "api_token": env.str("API_TOKEN", "", validate=_check_token),
            "api_tokens": parse_tokens(
                env.str("API_TOKENS", "", validate=_check_named_tokens) or "", TokenKind.WRITE
            ),
            "read_tokens": parse_tokens(
                env.str("READ_TOKENS", "", validate=_check_named_tokens) or "", TokenKind.READ
            ),
            "generated_api_token": env.str("GENERATED_API_TOKEN", "", validate=_check_token),
            "events_token": env.str("EVENTS_TOKEN", "", validate=_check_token),
            "public_read": _is_true(env.str("PUBLIC_READ", "false", validate=_check_boolean)),
            "bind_address": env.str("BIND_ADDRESS", "127.0.0.1", validate=_check_ip_address),
            "flower_user": env.str("FLOWER_USER", "rowdrop"),
            "flower_password": env.str("FLOWER_PASSWORD", ""),
            "minio_root_user": env.str("MINIO_ROOT_USER", ""),
            "minio_root_password": env.str("MINIO_ROOT_PASSWORD", ""),
            "minio_users": env.str("MINIO_USERS", ""),
            "allow_root_access": env.str("MINIO_API_ROOT_ACCESS", "off") == "on",
            "progress_file": env.str("PROGRESS_FILE", ""),
            "max_upload_mb": env.int("MAX_UPLOAD_MB", 20, validate=_check_positive),
            "max_unpacked_mb": env.int("MAX_UNPACKED_MB", 20000, validate=_check_positive),
            "allowed_hosts": _split_words(env.str("ALLOWED_HOSTS", "", validate=_check_host_names)),
            "cors_origins": _split_words(env.str("CORS_ORIGINS", "", validate=_check_origins)),
            "page_links": _parse_links(env.str("PAGE_LINKS", "", validate=_check_links)),
            "copy_images": env.str("IMAGES", "reference", validate=_check_images_mode) == "copy",
            "zip_names": _normalize_codec(env.str("ZIP_NAMES", "", validate=_check_codec)),
            "public_output": _is_true(env.str("PUBLIC_OUTPUT", "false", validate=_check_boolean)),
        }


def _split_words(text: str | None) -> tuple[str, ...]:
    return tuple((text or "").replace(",", " ").split())


def _check_not_empty(value: str) -> None:
    if not value:
        raise ValidationError("must not be empty")


def _check_bucket(value: str) -> None:
    if not _BUCKET_NAME.fullmatch(value):
        raise ValidationError(
            f"is {value[:80]!r}; the name of a bucket has 3 to 63 characters: lower-case letters, "
            "digits, dots and hyphens, with a letter or digit at both ends"
        )


def _check_token(value: str) -> None:
    try:
        check_token_value(value)
    except InvalidToken as error:
        raise ValidationError(str(error)) from None


def _check_named_tokens(value: str) -> None:
    try:
        parse_tokens(value, TokenKind.WRITE)
    except InvalidToken as error:
        raise ValidationError(str(error)) from None


def _check_positive(value: int) -> None:
    if value <= 0:
        raise ValidationError("must be a number above 0")


def _check_publish_interval(value: float) -> None:
    if not 0 <= value <= MAX_PUBLISH_INTERVAL_S:
        raise ValidationError(f"must be a number of seconds from 0 to {MAX_PUBLISH_INTERVAL_S}")


def _check_ip_address(value: str) -> None:
    try:
        ip_address(value.strip("[]"))  # an IPv6 address may be in brackets, as in a URL
    except ValueError:
        raise ValidationError("must be an IP address such as 127.0.0.1 or 0.0.0.0") from None


def _check_ca_file(value: str) -> None:
    if not value:
        return
    try:
        ssl.create_default_context(cafile=value)
    except OSError:  # `ssl.SSLError`, a file without certificates, is one, too
        raise ValidationError("must be a readable file of certificates (PEM)") from None


def _check_host_names(value: str) -> None:
    if not all(_HOST_NAME.fullmatch(name) for name in _split_words(value)):
        raise ValidationError(
            "must be host names without scheme and port, such as rowdrop.example.org, *.example.org"
        )


def _check_origins(value: str) -> None:
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in _split_words(value)):
        raise ValidationError(
            "must be origins such as https://example.org or http://localhost:3000, or *"
        )


def _parse_links(text: str | None) -> tuple[PageLink, ...]:
    entries = (entry.partition("=") for entry in (text or "").split(",") if entry.strip())
    return tuple(PageLink(title.strip(), address.strip()) for title, _, address in entries)


def _check_links(value: str) -> None:
    links = _parse_links(value)
    if not all(link.title and _LINK_ADDRESS.fullmatch(link.address) for link in links):
        raise ValidationError(
            "must be title=address entries such as Flower=http://127.0.0.1:5555, separated by "
            "commas; an address begins with http:// or https:// and has no password"
        )


def _check_http_url(value: str) -> None:
    url = urlsplit(value)
    is_address = bool(url.hostname) and _has_valid_port(url)
    if url.scheme not in {"http", "https"} or not is_address or url.path not in {"", "/"}:
        raise ValidationError("must be a URL such as http://127.0.0.1:9000")


def _has_valid_port(url: SplitResult) -> bool:
    try:
        return url.port != 0
    except ValueError:  # not a number below 65,536
        return False


def _check_redis_url(value: str) -> None:
    url = urlsplit(value)
    is_address = bool(url.hostname) and _has_valid_port(url)
    if url.scheme != "redis" or not is_address or url.path not in {"", "/", "/0"}:
        raise ValidationError(
            "must be redis://[:password@]host:port/0: "
            "MinIO's Redis target speaks plain TCP to database 0 only"
        )


def _check_images_mode(value: str) -> None:
    if value not in {"reference", "copy"}:
        raise ValidationError("must be reference or copy")


def _check_codec(value: str) -> None:
    try:
        # Fails for codecs that are not for text, too, such as base64.
        b"1.csv".decode(value or "utf-8")
    except (LookupError, UnicodeError, ValueError):
        raise ValidationError(
            "must be the name of a Python codec for text, such as cp866, cp850 or shift_jis"
        ) from None


def _normalize_codec(value: str | None) -> str:
    # Other spellings of the same codec must not invalidate what is cached.
    with suppress(LookupError):  # an invalid value is reported by `_check_codec`
        return codecs.lookup(value).name if value else ""
    return ""


_TRUE_WORDS = {"true", "True", "TRUE", "1", "yes", "on"}
_FALSE_WORDS = {"false", "False", "FALSE", "0", "no", "off"}


def _is_true(value: str | None) -> bool:
    return value in _TRUE_WORDS


def _check_boolean(value: str) -> None:
    if value not in _TRUE_WORDS | _FALSE_WORDS:
        raise ValidationError("must be true or false")


def _check_log_level(value: str) -> None:
    if value not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValidationError("must be DEBUG, INFO, WARNING or ERROR")
