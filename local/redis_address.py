"""The address of a Redis, in the form that MinIO's notification target supports."""

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from local.errors import StartupError


@dataclass(frozen=True)
class RedisAddress:
    """Address and user of a Redis, in a form that MinIO's notification target supports."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse a Redis URL.

        Raises `StartupError` for TLS, a Unix socket and databases other than 0, because MinIO's
        Redis target does not support them.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or 6379
        except ValueError:  # not a number below 65,536
            raise StartupError("the port in REDIS_URL is not valid: correct it.") from None
        is_supported = parts.scheme == "redis" and parts.path in {"", "/", "/0"} and not parts.query
        if not is_supported or not parts.hostname:
            raise StartupError(
                "REDIS_URL must be redis://[:password@]host[:port]/0: MinIO sends its events over\n"
                "plain TCP and into database 0 only.  Correct it, or unset it: "
                "then Rowdrop starts its\nown Redis."
            )
        user = unquote(parts.username or "")
        password = unquote(parts.password or "")
        return cls(parts.hostname, port, user, password)
