"""The bundle catalog `bundles.json`: which version of each bundle is visible. Pure.

It is one object, so that one conditional write switches versions atomically. A nonce makes the ETag
of each write unique.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from shared.formats.records import OLDEST_RULES_VERSION
from shared.formats.source_keys import make_bundle_id

ATTEMPTS_EXHAUSTED_REASON = (
    "unpacking it killed or stalled its worker again and again; it is unpacked anew when it "
    "changes, and tried again by sweeps, less and less often"
)
"""The reject reason of a bundle that was given up."""
MAX_RETRIES_PER_SWEEP = 3
"""Given-up bundles that one sweep tries again.

An attempt may take 150 s: the deadline, and then the lease of the worker that was killed.
"""
OVER_BUDGET_REASON = "it unpacks to more than there is space for"
"""The beginning of the reject reason of a bundle that exceeds the disk budget."""
INDEPENDENT_REASONS = (ATTEMPTS_EXHAUSTED_REASON, OVER_BUDGET_REASON)
"""Beginnings of reasons that do not follow from the bytes of the archive alone."""


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
    rules: str = OLDEST_RULES_VERSION
    stored_bytes: int = 0
    needed_bytes: int = 0
    retries: int = 0
    retry_at: int = 0


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

    def encode(self, nonce: str) -> bytes:
        """Return the bytes of `bundles.json`.

        A random nonce makes each write another ETag, so that a lost write is noticed.
        """
        entries = {key: asdict(self.entries[key]) for key in sorted(self.entries)}
        document = {"bundles": entries, "nonce": nonce}
        return json.dumps(document, ensure_ascii=False, indent=1).encode()

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
            return cls({key: CatalogEntry(**fields) for key, fields in bundles.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()
