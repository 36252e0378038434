"""Writes to the source bucket, as users make them.

Each acknowledged write is recorded in the oracle. Its events are added to the transit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from shared.keys import Bundle, bundle_id, classify, csv_key
from tests.archives import tar_of, zip_of
from tests.factories import csv_body, person
from tests.faults.oracle import Oracle
from tests.faults.servers import Servers
from tests.faults.transit import Transit
from tests.faults.truth import BROKEN, Csv

GOOD, BAD = "ABC", "xy"
"""CSV contents, one letter each: first names in valid CSVs, and markers of invalid CSVs."""


def body_of(content: str) -> bytes:
    """Return the body of a CSV with this content."""
    return csv_body({"first_name": content}) if content in GOOD else f"broken {content}\n".encode()


def said_by(content: str) -> Csv:
    """Return the person in a CSV with this content, or `BROKEN` if it is invalid."""
    return person(content) if content in GOOD else BROKEN


class Drops:
    """Users that write to the source bucket. `clock` returns Unix seconds."""

    def __init__(self, servers: Servers, oracle: Oracle, transit: Transit, clock: Callable[[], float]) -> None:
        self._servers, self._oracle, self._transit, self._clock = servers, oracle, transit, clock
        self.acknowledged = 0
        self._there: set[str] = set()
        self._unpacking: Iterator[tuple[str, bytes]] = iter(())
        self._tar = ""

    def csv(self, user_id: str, content: str) -> None:
        """Put a CSV, which may replace an existing one."""
        key = csv_key(user_id)
        self._tell(self._servers.put(key, body_of(content)), [(key, said_by(content))])

    def image(self, user_id: str, extension: str) -> None:
        """Put an image, which may replace an existing one."""
        key = f"{user_id}.{extension}"
        self._tell(self._servers.put(key, f"image at {self._clock()}".encode()), [(key, True)])

    def tar(self, user_id: str, contents: str, age_s: float) -> None:
        """Start to unpack a tar with several versions of one CSV.

        Every version has the same LastModified, `age_s` seconds before now. The first version is
        written here, and each call of `unpack` writes the next one. A tar that is still incomplete
        is finished first.
        """
        self.unpack_all()
        key = csv_key(user_id)
        members = [(key, body_of(content), int(self._clock()) - age_s) for content in contents]
        self._unpacking = zip(contents, self._servers.unpack(members), strict=True)
        self._tar = key
        self.unpack()

    def unpack(self) -> bool:
        """Write the next member of the tar, or return False if all members are written."""
        for content, event in self._unpacking:
            self._tell([event], [(self._tar, said_by(content))])
            return True
        return False

    def unpack_all(self) -> None:
        """Write all remaining members of the tar."""
        while self.unpack():
            pass

    def old_image(self, user_id: str, extension: str, age_s: float) -> None:
        """Put an image with a LastModified `age_s` seconds before now."""
        key = f"{user_id}.{extension}"
        said = list(self._servers.unpack([(key, b"image of a tar", int(self._clock()) - age_s)]))
        self._tell(said, [(key, True)])

    def bundle(self, key: str, members: Mapping[str, str], images: Iterable[str]) -> None:
        """Put an archive of these users' CSVs and images, which may replace an existing one.

        Without any CSV or image the archive is truncated, which makes it invalid.
        """
        files = {f"in/{csv_key(user_id)}": body_of(content) for user_id, content in members.items()}
        files |= {f"{user_id}.png": f"image at {self._clock()}".encode() for user_id in images}
        whole = zip_of(files) if key.endswith(".zip") else tar_of(files)
        self._tell(self._servers.put(key, whole if files else whole[:-1] or b"x"), [(key, True)])

    def delete(self, key: str) -> None:
        """Delete a key if it exists."""
        if key in self._there:
            self._tell(self._servers.delete(key), [(key, _gone(key))])

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete keys in one request.

        MinIO sends an event for each key, including keys that never existed.
        """
        keys = list(keys)
        self._tell(self._servers.delete_many(keys), [(key, _gone(key)) for key in keys])

    def _tell(self, events: Sequence[bytes], states: Sequence[tuple[str, Csv | bool]]) -> None:
        self.acknowledged += len(states)
        for key, state in states:
            self._oracle.wrote(key, state)
            (self._there.discard if state in {None, False} else self._there.add)(key)
        first = states[0][0]
        is_bundle = isinstance(classify(first), Bundle)
        self._transit.add(events, bundle_id(first) if is_bundle else first.rpartition(".")[0])


def _gone(key: str) -> Csv | bool:
    return None if key.endswith(".csv") else False
