"""The shelf: which versions of which bundles are visible.  One object, `bundles.json`, so that one write is the switch.

It holds a random word, so that no two contents ever have the same ETag, and is written by If-Match, each time that a
bundle was looked at, whether or not that changes anything: who has read it before that cannot write it any more.  After
each write its token in Redis is renewed (`Backlog.renew_shelf`), and only then are users marked; so a reading that has
noted a user's mark knows from the token, noted with it, whether what it has kept of the shelf is young enough.
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
    """A bundle.  `etag` and `since` (LastModified in whole seconds, UTC) are those of the archive in the bucket.

    `reason` says why that archive cannot be used; empty if it can.  `digest` is where that was unpacked which is
    visible, and `visible_since` the `since` of its archive: the last one that could be used.  Empty if there is none.
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
    """All of them, by key."""

    bundles: Mapping[str, Shelved] = field(default_factory=dict)

    def visible(self) -> list[tuple[str, Shelved]]:
        """Those of which something is visible, by rank: the one dropped last first; of the same second, by key."""
        usable = [(key, shelved) for key, shelved in self.bundles.items() if shelved.digest]
        return sorted(usable, key=lambda found: (-found[1].visible_since, found[0]))

    def replace(self, key: str, shelved: Shelved | None) -> "Shelf":
        """The same with this state of a bundle, or without it."""
        bundles = {**self.bundles, key: shelved}
        return Shelf({name: found for name, found in bundles.items() if found})

    def encode(self) -> bytes:
        """The bytes of `bundles.json`, never the same twice."""
        bundles = {key: asdict(self.bundles[key]) for key in sorted(self.bundles)}
        return json.dumps({"bundles": bundles, "nonce": new_token()}, ensure_ascii=False, indent=1).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Shelf":
        """The inverse of `encode`.  What is not ours is no bundle: a sweep finds whichever is missing."""
        try:
            return cls({key: Shelved(**fields) for key, fields in json.loads(body)["bundles"].items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


def digest_of(key: str, etag: str) -> str:
    """Under what name a version of a bundle is unpacked; another one by other rules."""
    return hashlib.sha256("\0".join((RULES_VERSION, key, etag)).encode()).hexdigest()[:32]


def is_up_to_date(key: str, shelved: Shelved | None, archive: tuple[str, int] | None) -> bool:
    """Whether a bundle on the shelf is what this archive (ETag, LastModified) makes, by today's rules.  Pure."""
    if shelved is None or archive is None:
        return shelved is None and archive is None
    usable = bool(shelved.reason) or shelved.digest == digest_of(key, shelved.etag)
    return (shelved.etag, shelved.since) == archive and usable


def read_shelf(output: ObjectStore) -> tuple[Shelf, str | None]:
    """The shelf and its ETag; an empty one and None if there is none.  Raises `StoreUnavailable`."""
    try:
        stored = output.get(BUNDLES)
    except ObjectNotFound:
        return Shelf(), None
    return Shelf.decode(stored.body), stored.etag
