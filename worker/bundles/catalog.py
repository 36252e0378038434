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
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from redis import Redis

from shared.formats.object_names import CATALOG_KEY
from shared.formats.records import OLDEST_RULES_VERSION, RULES_VERSION
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectNotFound, ObjectStore, PreconditionFailed
from shared.progress.unpacks import PreviousVersions
from shared.redis_keys import CATALOG_VERSION
from shared.scripts import Scripts, decode_optional, new_token
from worker.state.loss_signals import LossSignals
from worker.state.user_states import UserStates, VersionTokens

ATTEMPTS_EXHAUSTED_REASON = (
    "unpacking it killed or stalled its worker again and again; it is unpacked anew when it "
    "changes, and tried again by sweeps, less and less often"
)
"""The reject reason of a bundle that was given up."""
MAX_RETRIES_PER_SWEEP = 3
"""Given-up bundles that one sweep tries again.

An attempt may take 150 s: the deadline, and then the lease of the worker that was killed.
"""
FIRST_RETRY_DELAY_S = 3600
"""Seconds from a failed retry to the next one; they double each time."""
MAX_RETRY_DELAY_S = 24 * 3600
OVER_BUDGET_REASON = "it unpacks to more than there is space for"
"""The beginning of the reject reason of a bundle that exceeds the disk budget."""
INDEPENDENT_REASONS = (ATTEMPTS_EXHAUSTED_REASON, OVER_BUDGET_REASON)
"""Beginnings of reasons that do not follow from the bytes of the archive alone."""
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
        self, key: str, entry: "CatalogEntry | None", archive_version: tuple[str, int] | None
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


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """The catalog entry of one bundle.

    `etag` and `since` (LastModified in whole seconds, UTC) are those of the archive in the source
    bucket when it was last checked. `reason` says why that archive cannot be used; it is empty if
    the archive is valid. `digest` names the folder of the visible version; it is empty if no
    version is visible. `visible_since` is the LastModified of the visible version, the last valid
    archive. `users` and `ignored` count the users and the ignored members of the visible version.
    `rules` is the `BundleRules.version` by which the archive was rejected. `stored_bytes` is the
    disk space of the visible version. `needed_bytes` is the space that an archive needs at least
    that was rejected because of the disk budget. `retries` counts the failed attempts since the
    bundle was given up, and `retry_at` is the time in Unix seconds before which no sweep grants
    another one.
    """

    etag: str
    since: int
    digest: str
    visible_since: int = 0
    users: int = 0
    ignored: int = 0
    reason: str = ""
    rules: str = DEFAULT_RULES.version
    stored_bytes: int = 0
    needed_bytes: int = 0
    retries: int = 0
    retry_at: int = 0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CatalogEntry":
        """Return the entry with these fields, which an earlier release may have written.

        Raises `TypeError` if they are not those of an entry.
        """
        return cls(**{"rules": OLDEST_RULES_VERSION, **fields})


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

    def find_due_retries(self, now: float) -> list[str]:
        """Return the given-up bundles to try again: at most `MAX_RETRIES_PER_SWEEP` keys.

        Those with the fewest failed retries are first. `now` is in Unix seconds.
        """
        due = (
            (entry.retries, entry.retry_at, key)
            for key, entry in self.entries.items()
            if entry.reason.startswith(ATTEMPTS_EXHAUSTED_REASON) and entry.retry_at <= now
        )
        return [key for _, _, key in sorted(due)[:MAX_RETRIES_PER_SWEEP]]

    def find_over_budget(self) -> set[str]:
        """Return the IDs of the bundles that were rejected because of the disk budget."""
        entries = self.entries.items()
        return {
            make_bundle_id(key)
            for key, entry in entries
            if entry.reason.startswith(OVER_BUDGET_REASON)
        }

    def count_stored_bytes(self, except_key: str) -> int:
        """Return the disk space of all visible versions but that of one bundle."""
        entries = self.entries.items()
        return sum(
            entry.stored_bytes for key, entry in entries if entry.digest and key != except_key
        )

    def with_entry(self, key: str, entry: CatalogEntry | None) -> "BundleCatalog":
        """Return a catalog with this entry for the bundle; None removes the entry."""
        entries = {**self.entries, key: entry}
        return BundleCatalog({name: value for name, value in entries.items() if value})

    def encode(self) -> bytes:
        """Return the bytes of `bundles.json`.

        A random nonce makes each write another ETag, so that a lost write is noticed.
        """
        entries = {key: asdict(self.entries[key]) for key in sorted(self.entries)}
        return json.dumps(
            {"bundles": entries, "nonce": new_token()}, ensure_ascii=False, indent=1
        ).encode()

    @classmethod
    def decode(cls, body: bytes) -> "BundleCatalog":
        """Return the catalog in these bytes, the inverse of `encode`.

        Invalid content counts as an empty catalog, as a missing object does. The watchdog detects
        by the ETag that the object is not what was last written, and requests a sweep, which adds
        the missing entries again. A user that is read before that loses its row from a bundle until
        then.
        """
        try:
            bundles = json.loads(body)["bundles"]
            return cls({key: CatalogEntry.from_json(fields) for key, fields in bundles.items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


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
        new_body = catalog.with_entry(key, entry).encode()
        self._catalog_version.renew(self._output.put_if_unchanged(CATALOG_KEY, new_body, etag))
        return owned_tokens

    def find_unmarked_digests(self, key: str) -> list[str] | None:
        """Return the digests that were visible before, or None if all their users are marked."""
        return self._previous_versions.digests(key)

    def clear_unmarked_digests(self, key: str, digests: list[str]) -> None:
        """Record that all users of these digests, and of the visible one, are marked."""
        self._previous_versions.clear_digests(key, digests)
