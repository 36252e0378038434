"""The bundle catalog `bundles.json`: which version of each bundle is visible.

It is one object, so that one conditional write switches versions atomically. A nonce makes the ETag
of each write unique. It is written with `If-Match` on every check of a bundle, even if no entry
changes, so that a concurrent writer that read an older catalog fails.

After each write the catalog version in Redis is renewed (`Backlog.renew_shelf`), and only then are
users marked. A read gets the catalog version together with the version tokens of its users. If the
version differs from the cached one, the cached catalog is stale and is reloaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from shared.object_store import ObjectNotFound, ObjectStore
from shared.published import BUNDLES
from shared.records import RULES_VERSION
from worker.backlog import new_token


@dataclass(frozen=True, slots=True)
class Shelved:
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
class Shelf:
    """The bundle catalog: entries by the key of the bundle; immutable."""

    bundles: Mapping[str, Shelved] = field(default_factory=dict)

    def visible(self) -> list[tuple[str, Shelved]]:
        """Return the bundles with a visible version, by rank.

        The most recently dropped bundle is first; bundles of the same second are sorted by key.
        """
        usable = [(key, shelved) for key, shelved in self.bundles.items() if shelved.digest]
        return sorted(usable, key=lambda found: (-found[1].visible_since, found[0]))

    def replace(self, key: str, shelved: Shelved | None) -> "Shelf":
        """Return a catalog with this entry for the bundle; None removes the entry."""
        bundles = {**self.bundles, key: shelved}
        return Shelf({name: found for name, found in bundles.items() if found})

    def encode(self) -> bytes:
        """Return the bytes of `bundles.json`; two calls never return the same bytes."""
        bundles = {key: asdict(self.bundles[key]) for key in sorted(self.bundles)}
        return json.dumps({"bundles": bundles, "nonce": new_token()}, ensure_ascii=False, indent=1).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Shelf":
        """Return the catalog in these bytes, the inverse of `encode`.

        Invalid content counts as an empty catalog. The next sweep then finds the missing bundles.
        """
        try:
            return cls({key: Shelved(**fields) for key, fields in json.loads(body)["bundles"].items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


def digest_of(key: str, etag: str) -> str:
    """Return the folder name to which a version of a bundle is unpacked: 32 hex digits.

    It depends on `RULES_VERSION`, so a change of the rules unpacks every bundle again.
    """
    return hashlib.sha256("\0".join((RULES_VERSION, key, etag)).encode()).hexdigest()[:32]


def is_up_to_date(key: str, shelved: Shelved | None, archive: tuple[str, int] | None) -> bool:
    """Return whether the catalog entry matches this archive (ETag, LastModified). Pure.

    Both may be None: no entry, no archive. A valid bundle that was unpacked under another
    `RULES_VERSION` is out of date.
    """
    if shelved is None or archive is None:
        return shelved is None and archive is None
    usable = bool(shelved.reason) or shelved.digest == digest_of(key, shelved.etag)
    return (shelved.etag, shelved.since) == archive and usable


def read_shelf(output: ObjectStore) -> tuple[Shelf, str | None]:
    """Return the catalog and its ETag; an empty catalog and None if the object does not exist.

    Raises `StoreUnavailable`.
    """
    try:
        stored = output.get(BUNDLES)
    except ObjectNotFound:
        return Shelf(), None
    return Shelf.decode(stored.body), stored.etag
