"""Reads and writes the bundle catalog, and the rules by which its entries are up to date.

The catalog is written with `If-Match` on every check of a bundle, even if no entry changes, so that
a concurrent writer that read an older catalog fails.

After each write the catalog version in Redis is renewed (`CatalogVersion.renew`), and only then are
users marked. A read gets the catalog version together with the version tokens of its users. If the
version differs from the cached one, the cached catalog is stale and is reloaded.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis

from shared.formats.bundle_catalog import (
    ATTEMPTS_EXHAUSTED_REASON,
    BundleCatalog,
    CatalogEntry,
)
from shared.formats.object_names import CATALOG_KEY
from shared.formats.records import RULES_VERSION
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectNotFound, ObjectStore, PreconditionFailed
from shared.progress.unpacks import PreviousVersions
from shared.redis_keys import CATALOG_VERSION
from shared.scripts import Scripts, decode_optional, new_token
from worker.state.loss_signals import LossSignals
from worker.state.user_states import UserStates, VersionTokens

FIRST_RETRY_DELAY_S = 3600
"""Seconds from a failed retry to the next one; they double each time."""
MAX_RETRY_DELAY_S = 24 * 3600
BUNDLE_RULES_VERSION = "2"
"""The version of the rules for archives; a change of it unpacks every bundle again."""


@dataclass(frozen=True, slots=True)
class BundleRules:
    """The rules by which archives are read; `zip_names` is the codec of ZIP_NAMES, or empty."""

    zip_names: str = ""

    @property
    def version(self) -> str:
        """Return the version of these rules, which includes that of the rules for CSVs."""
        return " ".join((RULES_VERSION, BUNDLE_RULES_VERSION, self.zip_names)).rstrip()

    def make_digest(self, key: str, etag: str) -> str:
        """Return the folder name to which a version of a bundle is unpacked: 32 hex digits.

        It depends on the version of the rules, so a change of them unpacks every bundle again.
        """
        return hashlib.sha256("\0".join((self.version, key, etag)).encode()).hexdigest()[:32]

    def is_up_to_date(
        self, key: str, entry: CatalogEntry | None, archive_version: tuple[str, int] | None
    ) -> bool:
        """Return whether the catalog entry matches this archive (ETag, LastModified).

        Both may be None: no entry, no archive. A bundle that was unpacked or rejected by other
        rules is out of date.
        """
        if entry is None or archive_version is None:
            return entry is None and archive_version is None
        if entry.reason:
            is_current = entry.rules == self.version
        else:
            is_current = entry.digest == self.make_digest(key, entry.etag)
        return (entry.etag, entry.since) == archive_version and is_current


DEFAULT_RULES = BundleRules()


class CatalogVersion:
    """The catalog version in Redis: a token that is renewed after each write of the catalog.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._renew = Scripts(client)["renew_catalog_version"]

    def current(self) -> bytes:
        """Return the bundle catalog's version; set a new one, without an ETag, if it is missing."""
        self._redis.hsetnx(CATALOG_VERSION, "version", new_token())
        return bytes(self._redis.hget(CATALOG_VERSION, "version") or b"")

    def renew(self, etag: str | None, expected: bytes | None = None) -> None:
        """Invalidate cached bundle catalogs.

        `etag` is the new catalog's ETag, None without a catalog. With `expected`, the version is
        renewed only if it is still that one.
        """
        self._renew([CATALOG_VERSION], [new_token(), etag or "-", expected or ""])

    def recorded_etag(self) -> str | None:
        """Return the recorded ETag of the bundle catalog: "-" if absent, None if unknown."""
        return decode_optional(self._redis.hget(CATALOG_VERSION, "etag"))


def schedule_retry(
    given_up: CatalogEntry, previous: CatalogEntry | None, now: float
) -> CatalogEntry:
    """Return the entry of a given-up bundle with the time of its next retry. Pure.

    The first sweep grants one, because workers may have died for other reasons. If `previous` is
    the same version, already given up, that retry failed. `now` is in Unix seconds.
    """
    is_again = (
        previous is not None
        and previous.etag == given_up.etag
        and previous.reason.startswith(ATTEMPTS_EXHAUSTED_REASON)
    )
    retries = previous.retries + 1 if previous and is_again else 0
    # The exponent is limited because the number of retries is not.
    delay_s = min(FIRST_RETRY_DELAY_S * 2 ** min(retries - 1, 10), MAX_RETRY_DELAY_S)
    return replace(given_up, retries=retries, retry_at=int(now + delay_s) if retries else 0)


def read_catalog(output: ObjectStore) -> tuple[BundleCatalog, str | None]:
    """Return the catalog and its ETag; an empty catalog and None if the object does not exist.

    Raises `StoreUnavailable`.
    """
    try:
        stored = output.get(CATALOG_KEY)
    except ObjectNotFound:
        return BundleCatalog(), None
    return BundleCatalog.decode(stored.body), stored.etag


class CatalogWriter:
    """Writes the catalog in `output`.

    It also records the versions that were visible and have users that are not marked yet.
    """

    def __init__(
        self,
        output: ObjectStore,
        users: UserStates,
        catalog_version: CatalogVersion,
        loss_signals: LossSignals,
        previous_versions: PreviousVersions,
    ) -> None:
        self._output = output
        self._users = users
        self._catalog_version = catalog_version
        self._loss_signals = loss_signals
        self._previous_versions = previous_versions

    def read_catalog(self) -> BundleCatalog:
        """Return the current catalog. Raises `StoreUnavailable`."""
        return read_catalog(self._output)[0]

    def commit_entry(
        self,
        key: str,
        previous: CatalogEntry | None,
        entry: CatalogEntry | None,
        version_tokens: VersionTokens,
    ) -> VersionTokens | None:
        """Publish `entry` as the catalog entry of the bundle, into the current catalog.

        Returns the version tokens to submit with; None if another result of this bundle was
        accepted.

        The order is: read the catalog, take ownership of the bundle, write the catalog, even if it
        is unchanged. So of two concurrent workers the one that read the bundle later wins, although
        either may be suspended at any point.

        Raises `PreconditionFailed` if the catalog was written concurrently. After
        `StoreUnavailable` the write may have happened.
        """
        catalog, etag = read_catalog(self._output)
        if self._catalog_version.recorded_etag() not in {None, etag or "-"}:
            # No process recorded this ETag: the catalog was edited or deleted by hand, or a
            # delayed write landed. Its previous content is lost: only a sweep finds what changed.
            self._loss_signals.add("files_changed")
        # Another worker changed the entry since the caller read it: the caller must start again.
        if catalog.entries.get(key) != previous:
            raise PreconditionFailed(CATALOG_KEY)
        owned_tokens = self._users.take_ownership(make_bundle_id(key), version_tokens)
        if owned_tokens is None:
            return None
        if entry != previous:
            # Recorded before the write: if this worker dies after it, the next one marks the users.
            self._previous_versions.add_digests(key, [previous.digest] if previous else [])
        # Renewed after the write and before users are marked: a read of a marked user then loads
        # the new catalog.
        new_body = catalog.with_entry(key, entry).encode(new_token())
        self._catalog_version.renew(self._output.put_if_unchanged(CATALOG_KEY, new_body, etag))
        return owned_tokens

    def find_unmarked_digests(self, key: str) -> list[str] | None:
        """Return the digests that were visible before, or None if all their users are marked."""
        return self._previous_versions.digests(key)

    def clear_unmarked_digests(self, key: str, digests: list[str]) -> None:
        """Record that all users of these digests, and of the visible one, are marked."""
        self._previous_versions.clear_digests(key, digests)
