"""Writes to the source bucket, as users make them.

Each acknowledged write is recorded in the oracle. Its events are added to the transit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from shared.formats.source_keys import Bundle, classify_key, make_bundle_id, make_csv_key
from tests.archives import make_tar, make_zip
from tests.factories import make_csv_body, make_person
from tests.faults.event_transit import EventTransit
from tests.faults.oracle import Oracle
from tests.faults.servers import BucketPair
from tests.faults.truth import INVALID, CsvState

VALID_CONTENTS = "ABC"
INVALID_CONTENTS = "xy"
"""CSV contents, one letter each: first names in valid CSVs, and markers of invalid CSVs."""


def make_body(content: str) -> bytes:
    """Return the body of a CSV with this content."""
    if content in VALID_CONTENTS:
        return make_csv_body({"first_name": content})
    return f"broken {content}\n".encode()


def parse_content(content: str) -> CsvState:
    """Return the person in a CSV with this content, or `BROKEN` if it is invalid."""
    return make_person(content) if content in VALID_CONTENTS else INVALID


class UserActions:
    """Users that write to the source bucket. `clock` returns Unix seconds."""

    def __init__(
        self, servers: BucketPair, oracle: Oracle, transit: EventTransit, clock: Callable[[], float]
    ) -> None:
        self._servers = servers
        self._oracle = oracle
        self._transit = transit
        self._clock = clock
        self.acknowledged = 0
        self._existing_keys: set[str] = set()
        self._unpacking: Iterator[tuple[str, bytes]] = iter(())
        self._tar_key = ""

    def put_csv(self, user_id: str, content: str) -> None:
        """Put a CSV, which may replace an existing one."""
        key = make_csv_key(user_id)
        self._record(self._servers.put(key, make_body(content)), [(key, parse_content(content))])

    def put_image(self, user_id: str, extension: str) -> None:
        """Put an image, which may replace an existing one."""
        key = f"{user_id}.{extension}"
        self._record(self._servers.put(key, f"image at {self._clock()}".encode()), [(key, True)])

    def upload_tar(self, user_id: str, contents: str, age_s: float) -> None:
        """Start to unpack a tar with several versions of one CSV.

        Every version has the same LastModified, `age_s` seconds before now. The first version is
        written here, and each call of `unpack_next_member` writes the next one. A tar that is
        still incomplete is finished first.
        """
        self.unpack_all_members()
        key = make_csv_key(user_id)
        members = [(key, make_body(content), int(self._clock()) - age_s) for content in contents]
        self._unpacking = zip(contents, self._servers.upload_tar(members), strict=True)
        self._tar_key = key
        self.unpack_next_member()

    def unpack_next_member(self) -> bool:
        """Write the next member of the tar, or return False if all members are written."""
        for content, event in self._unpacking:
            self._record([event], [(self._tar_key, parse_content(content))])
            return True
        return False

    def unpack_all_members(self) -> None:
        """Write all remaining members of the tar."""
        while self.unpack_next_member():
            pass

    def put_old_image(self, user_id: str, extension: str, age_s: float) -> None:
        """Put an image with a LastModified `age_s` seconds before now."""
        key = f"{user_id}.{extension}"
        events = list(
            self._servers.upload_tar([(key, b"image of a tar", int(self._clock()) - age_s)])
        )
        self._record(events, [(key, True)])

    def put_bundle(self, key: str, members: Mapping[str, str], images: Iterable[str]) -> None:
        """Put an archive of these users' CSVs and images, which may replace an existing one.

        Without any CSV or image the archive is truncated, which makes it invalid.
        """
        files = {
            f"in/{make_csv_key(user_id)}": make_body(content)
            for user_id, content in members.items()
        }
        files |= {f"{user_id}.png": f"image at {self._clock()}".encode() for user_id in images}
        archive = make_zip(files) if key.endswith(".zip") else make_tar(files)
        self._record(
            self._servers.put(key, archive if files else archive[:-1] or b"x"), [(key, True)]
        )

    def delete(self, key: str) -> None:
        """Delete a key if it exists."""
        if key in self._existing_keys:
            self._record(self._servers.delete(key), [(key, _deleted_state(key))])

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete keys in one request.

        MinIO sends an event for each key, including keys that never existed.
        """
        keys = list(keys)
        self._record(self._servers.delete_many(keys), [(key, _deleted_state(key)) for key in keys])

    def _record(
        self, events: Sequence[bytes], states: Sequence[tuple[str, CsvState | bool]]
    ) -> None:
        self.acknowledged += len(states)
        for key, state in states:
            self._oracle.record_write(key, state)
            (self._existing_keys.discard if state in {None, False} else self._existing_keys.add)(
                key
            )
        first = states[0][0]
        is_bundle = isinstance(classify_key(first), Bundle)
        self._transit.add(events, make_bundle_id(first) if is_bundle else first.rpartition(".")[0])


def _deleted_state(key: str) -> CsvState | bool:
    return None if key.endswith(".csv") else False
