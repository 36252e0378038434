"""The version of the bundle catalog, by which cached catalogs are invalidated."""

from typing import Any

from redis import Redis

from shared.redis_keys import CATALOG_VERSION
from worker.state.scripts import new_token


class CatalogVersion:
    """The catalog version in Redis: a token that is renewed after each write of the catalog.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def current(self) -> bytes:
        """Return the bundle catalog's version and ETag; set a new version if it is missing."""
        self._redis.set(CATALOG_VERSION, f"{new_token()}|", nx=True)
        return bytes(self._redis.get(CATALOG_VERSION) or b"")

    def renew(self, etag: str | None, expected: bytes | None = None) -> None:
        """Invalidate cached bundle catalogs.

        `etag` is the new catalog's ETag, None without a catalog. With `expected`, the version is
        renewed only if it is still that one.
        """
        script = "if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1]) end"
        self._redis.eval(script, 1, CATALOG_VERSION, f"{new_token()}|{etag or '-'}", expected or "")

    def recorded_etag(self) -> str | None:
        """Return the recorded ETag of the bundle catalog: "-" if absent, None if unknown."""
        _, _, etag = (self._redis.get(CATALOG_VERSION) or b"").decode().partition("|")
        return etag or None
