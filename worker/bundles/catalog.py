"""The bundle catalog `bundles.json`: which version of each bundle is visible.

It is one object, so that one conditional write switches versions atomically. A nonce makes the ETag
of each write unique. It is written with `If-Match` on every check of a bundle, even if no entry
changes, so that a concurrent writer that read an older catalog fails.

After each write the catalog version in Redis is renewed (`CatalogVersion.renew`), and only then are
users marked. A read gets the catalog version together with the version tokens of its users. If the
version differs from the cached one, the cached catalog is stale and is reloaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from redis import Redis

from shared.formats.object_names import CATALOG_KEY
from shared.formats.records import RULES_VERSION
from shared.object_store import ObjectNotFound, ObjectStore
from shared.redis_keys import CATALOG_VERSION
from worker.state.scripts import new_token


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """The catalog entry of one bundle.

    `etag` and `since` (LastModified in whole seconds, UTC) are those of the archive in the source
    bucket when it was last checked. `reason` says why that archive cannot be used; it is empty if
    the archive is valid. `digest` names the folder of the visible version; it is empty if no
    version is visible. `visible_since` is the LastModified of the visible version, the last valid
    archive. `users` and `ignored` count the users and the ignored members of the visible version.
    """

    etag: str
    since: int
    digest: str
    visible_since: int = 0
    users: int = 0
    ignored: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BundleCatalog:
    """The bundle catalog: entries by the key of the bundle; immutable."""

    entries: Mapping[str, CatalogEntry] = field(default_factory=dict)

    def visible_entries(self) -> list[tuple[str, CatalogEntry]]:
        """Return the bundles with a visible version, by rank.

        The most recently dropped bundle is first; bundles of the same second are sorted by key.
        """
        usable = [(key, entry) for key, entry in self.entries.items() if entry.digest]
        return sorted(usable, key=lambda item: (-item[1].visible_since, item[0]))

    def with_entry(self, key: str, entry: CatalogEntry | None) -> "BundleCatalog":
        """Return a catalog with this entry for the bundle; None removes the entry."""
        entries = {**self.entries, key: entry}
        return BundleCatalog({name: found for name, found in entries.items() if found})

    def encode(self) -> bytes:
        """Return the bytes of `bundles.json`; two calls never return the same bytes."""
        entries = {key: asdict(self.entries[key]) for key in sorted(self.entries)}
        return json.dumps(
            {"bundles": entries, "nonce": new_token()}, ensure_ascii=False, indent=1
        ).encode()

    @classmethod
    def decode(cls, body: bytes) -> "BundleCatalog":
        """Return the catalog in these bytes, the inverse of `encode`.

        Invalid content counts as an empty catalog. The next sweep then finds the missing bundles.
        """
        try:
            return cls(
                {key: CatalogEntry(**fields) for key, fields in json.loads(body)["bundles"].items()}
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


_RENEW_SCRIPT = """
if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then
    redis.call('SET', KEYS[1], ARGV[1])
end
"""


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
        version = f"{new_token()}|{etag or '-'}"
        self._redis.eval(_RENEW_SCRIPT, 1, CATALOG_VERSION, version, expected or "")

    def recorded_etag(self) -> str | None:
        """Return the recorded ETag of the bundle catalog: "-" if absent, None if unknown."""
        _, _, etag = (self._redis.get(CATALOG_VERSION) or b"").decode().partition("|")
        return etag or None


def make_version_digest(key: str, etag: str) -> str:
    """Return the folder name to which a version of a bundle is unpacked: 32 hex digits.

    It depends on `RULES_VERSION`, so a change of the rules unpacks every bundle again.
    """
    return hashlib.sha256("\0".join((RULES_VERSION, key, etag)).encode()).hexdigest()[:32]


def is_up_to_date(
    key: str, entry: CatalogEntry | None, archive_version: tuple[str, int] | None
) -> bool:
    """Return whether the catalog entry matches this archive (ETag, LastModified). Pure.

    Both may be None: no entry, no archive. A valid bundle that was unpacked under another
    `RULES_VERSION` is out of date.
    """
    if entry is None or archive_version is None:
        return entry is None and archive_version is None
    is_settled = bool(entry.reason) or entry.digest == make_version_digest(key, entry.etag)
    return (entry.etag, entry.since) == archive_version and is_settled


def read_catalog(output: ObjectStore) -> tuple[BundleCatalog, str | None]:
    """Return the catalog and its ETag; an empty catalog and None if the object does not exist.

    Raises `StoreUnavailable`.
    """
    try:
        stored = output.get(CATALOG_KEY)
    except ObjectNotFound:
        return BundleCatalog(), None
    return BundleCatalog.decode(stored.body), stored.etag


GAVE_UP_REASON = (
    "unpacking it killed or stalled its worker again and again; it is unpacked anew when it changes, "
    "and once more by each sweep"
)
"""The reject reason of a bundle that was given up."""


PREVIOUS_VERSION_KEPT = "; the version before it stays in use"
"""Appended to a reject reason while the previous version of the bundle is still visible."""
