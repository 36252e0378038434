"""What people do with the source bucket.  Each acknowledged write is told to the oracle, its events to the transit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from shared.keys import Bundle, bundle_id, classify, csv_key
from tests.archives import tar_of, zip_of
from tests.factories import csv_body, person
from tests.faults.oracle import Oracle
from tests.faults.servers import Servers
from tests.faults.transit import Transit
from tests.faults.truth import BROKEN, Csv

GOOD, BAD = "ABC", "xy"
"""Contents by one letter: of a person of that name, and of no person."""


def body_of(content: str) -> bytes:
    """A CSV with this content."""
    return csv_body({"first_name": content}) if content in GOOD else f"broken {content}\n".encode()


def said_by(content: str) -> Csv:
    """What such a CSV says."""
    return person(content) if content in GOOD else BROKEN


class Drops:
    """`clock` gives Unix seconds."""

    def __init__(self, servers: Servers, oracle: Oracle, transit: Transit, clock: Callable[[], float]) -> None:
        self._servers, self._oracle, self._transit, self._clock = servers, oracle, transit, clock
        self.acknowledged = 0
        self._there: set[str] = set()
        self._unpacking: Iterator[tuple[str, bytes]] = iter(())
        self._tar = ""

    def csv(self, user_id: str, content: str) -> None:
        """A CSV is put, new or over another."""
        key = csv_key(user_id)
        self._tell(self._servers.put(key, body_of(content)), [(key, said_by(content))])

    def image(self, user_id: str, extension: str) -> None:
        """An image is put, new or over another."""
        key = f"{user_id}.{extension}"
        self._tell(self._servers.put(key, f"image at {self._clock()}".encode()), [(key, True)])

    def tar(self, user_id: str, contents: str, age_s: float) -> None:
        """A tar with several versions of one CSV, all `age_s` old by what it says, is unpacked: see `unpack`."""
        self.unpack_all()
        key = csv_key(user_id)
        members = [(key, body_of(content), int(self._clock()) - age_s) for content in contents]
        self._unpacking = zip(contents, self._servers.unpack(members), strict=True)
        self._tar = key
        self.unpack()

    def unpack(self) -> bool:
        """The next member of the tar is there; False if it was unpacked."""
        for content, event in self._unpacking:
            self._tell([event], [(self._tar, said_by(content))])
            return True
        return False

    def unpack_all(self) -> None:
        """All members are there."""
        while self.unpack():
            pass

    def old_image(self, user_id: str, extension: str, age_s: float) -> None:
        """An image whose time is set back."""
        key = f"{user_id}.{extension}"
        said = list(self._servers.unpack([(key, b"image of a tar", int(self._clock()) - age_s)]))
        self._tell(said, [(key, True)])

    def bundle(self, key: str, members: Mapping[str, str], images: Iterable[str]) -> None:
        """An archive of these users' CSVs and images is put, new or over another; one without any is broken."""
        files = {f"in/{csv_key(user_id)}": body_of(content) for user_id, content in members.items()}
        files |= {f"{user_id}.png": f"image at {self._clock()}".encode() for user_id in images}
        whole = zip_of(files) if key.endswith(".zip") else tar_of(files)
        self._tell(self._servers.put(key, whole if files else whole[:-1] or b"x"), [(key, True)])

    def delete(self, key: str) -> None:
        """A key is deleted, if it is there."""
        if key in self._there:
            self._tell(self._servers.delete(key), [(key, _gone(key))])

    def delete_many(self, keys: Iterable[str]) -> None:
        """Keys are deleted in one request; those that never were have an event all the same."""
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
