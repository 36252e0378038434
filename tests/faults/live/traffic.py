"""Clients that drop files during a fault, and the rows that must result.

Each user and each bundle belongs to one writer, so the order of its writes is known. A failed write
may have been done or not: until the next acknowledged write, both states are possible. Each CSV
contains its number, in the name and in the birth date. So a row shows from which version of the
file it was made, and whether that version was in a bundle.
"""

import io
import random
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.formats.records import Row
from tests.faults.live.rowdrop import UNREACHABLE, LiveRowdrop

INVALID_NUMBER = -1
"""The number of a CSV that is not valid."""
ANY_NUMBER = -2
"""Any earlier version: an invalid archive leaves visible what was visible before."""
OWN_KIND = "V"
BUNDLE_KIND = "B"
_DAY_MS = 86_400_000
_IMAGE = b"\x89PNG"


class TrafficVersion(NamedTuple):
    """The CSV from which a row was made: its `kind` (OWN or BUNDLED) and its number."""

    kind: str
    number: int


@dataclass
class PossibleFiles:
    """The states that a user's files of one kind may have now.

    - `csv`: possible numbers of the CSV, None for no CSV.
    - `image`: possible states of the image, True if it exists.
    - `valid`: all numbers that a valid CSV may have had at any time.
    """

    kind: str
    csv: set[int | None] = field(default_factory=lambda: {None})
    image: set[bool] = field(default_factory=lambda: {False})
    valid: set[int] = field(default_factory=set)

    def add_possible_csv(self, number: int | None) -> None:
        """Add a possible number of the CSV."""
        self.csv = self.csv | {number}
        self.valid = self.valid | ({number} if number is not None and number >= 0 else set())


class TrafficUser:
    """A user with files of its own, and files in a bundle."""

    def __init__(self) -> None:
        self.own = PossibleFiles(OWN_KIND)
        self.bundled = PossibleFiles(BUNDLE_KIND)

    def is_known(self, version: TrafficVersion | None) -> bool:
        """Return whether some CSV of this user may have been this version."""
        return (
            version is not None
            and version.number in (self.own if version.kind == OWN_KIND else self.bundled).valid
        )

    def is_correct(self, user_id: str, row: Row | None) -> bool:
        """Return whether this row is right, provided that no work is left."""
        version = parse_version(row)
        may_be: set[int | None] = {
            ANY_NUMBER if number == INVALID_NUMBER else number for number in self.own.csv
        }
        is_correct = self._can_make_row(OWN_KIND, may_be, row, version)
        if None in may_be:
            is_correct = is_correct or self._can_make_row(
                BUNDLE_KIND, self.bundled.csv, row, version
            )
        return is_correct and (row is None or row.img_path in self._images(user_id))

    def _can_make_row(
        self, kind: str, numbers: set[int | None], row: Row | None, version: TrafficVersion | None
    ) -> bool:
        """Return whether a CSV of this kind, with one of these numbers, results in this row."""
        if numbers & {INVALID_NUMBER, ANY_NUMBER}:  # a held row: the last valid one
            return row is None or self.is_known(version)
        if row is None:
            return kind == BUNDLE_KIND and None in numbers
        return version is not None and version.kind == kind and version.number in numbers

    def _images(self, user_id: str) -> set[str]:
        bundled = {
            f"processed-data/images/{user_id}.png" if exists else ""
            for exists in self.bundled.image
        }
        own = {f"src-data/{user_id}.png"} if True in self.own.image else set()
        return own | (bundled if False in self.own.image else set())


def parse_version(row: Row | None) -> TrafficVersion | None:
    """Return the version of the CSV from which a row was made.

    Returns None for no row, and for a row that no client wrote.
    """
    if row is None:
        return None
    kind = row.first_name[:1]
    number = row.birthts // _DAY_MS
    is_complete = (row.first_name, row.last_name, row.birthts) == (
        f"{kind}{number}",
        row.user_id,
        number * _DAY_MS,
    )
    return TrafficVersion(kind, number) if is_complete and kind in {OWN_KIND, BUNDLE_KIND} else None


def make_body(user_id: str, number: int, kind: str = OWN_KIND) -> bytes:
    """Return the body of the CSV with this number."""
    if number == INVALID_NUMBER:
        return b"first_name,last_name\nno,birthts\n"
    return f"first_name,last_name,birthts\n{kind}{number},{user_id},{number * _DAY_MS}\n".encode()


class Traffic:
    """Threads that drop files while it is in a `with` block.

    `writers` threads drop files for `users` users, `per_second` writes in total. If `bundles` is
    not 0, one more thread drops that many bundles in random order, each with files of its own share
    of the users. `acknowledged` counts the writes that MinIO acknowledged, `refused` the others,
    and `bundled` the acknowledged writes of bundles.
    """

    def __init__(
        self,
        live: LiveRowdrop,
        seed: int,
        users: int = 200,
        writers: int = 4,
        per_second: float = 60,
        bundles: int = 3,
    ) -> None:
        self._live = live
        self._pause_s = writers / per_second
        self.users = {f"{seed}-{number:04}": TrafficUser() for number in range(users)}
        self.acknowledged = self.refused = self.bundled = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        names = list(self.users)
        rng = [random.Random(seed * 100 + number) for number in range(writers + 1)]
        self._bundles = {
            f"{seed}-{number}.zip": names[number::bundles] for number in range(bundles)
        }
        self._uncertain_bundles: set[str] = set()
        self._archives = 0
        self._threads = [
            threading.Thread(target=self._write, args=(rng[number], names[number::writers]))
            for number in range(writers)
        ]
        if bundles:
            self._threads.append(threading.Thread(target=self._write_bundles, args=(rng[writers],)))

    def __enter__(self) -> "Traffic":
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads."""
        self.stop()

    def stop(self) -> None:
        """Stop the threads, and wait for the writes in progress."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    # -- one by one --------------------------------------------------------------------------------
    def _write(self, rng: random.Random, names: Sequence[str]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self._write_once(rng, rng.choice(names), number)
            time.sleep(rng.uniform(0.5, 1.5) * self._pause_s)

    def _write_once(self, rng: random.Random, user_id: str, number: int) -> None:
        match rng.choices(("csv", "broken", "gone", "image", "no image"), (65, 6, 11, 10, 8))[0]:
            case "csv":
                self.put_csv(user_id, number)
            case "broken":
                self.put_csv(user_id, INVALID_NUMBER)
            case "gone":
                self.put_csv(user_id, None)
            case "image":
                self.put_image(user_id, exists=True)
            case _:
                self.put_image(user_id, exists=False)

    def put_csv(self, user_id: str, number: int | None) -> bool:
        """Write the user's CSV with this number (None: delete it).

        Returns whether the write was acknowledged.
        """
        files = self.users[user_id].own
        files.add_possible_csv(number)
        is_acknowledged = self._send_write(
            f"{user_id}.csv", None if number is None else make_body(user_id, number)
        )
        if is_acknowledged:
            files.csv = {number}
        return is_acknowledged

    def put_image(self, user_id: str, *, exists: bool) -> bool:
        """Write or delete the user's image.

        Returns whether the write was acknowledged.
        """
        files = self.users[user_id].own
        files.image = files.image | {exists}
        is_acknowledged = self._send_write(f"{user_id}.png", _IMAGE if exists else None)
        if is_acknowledged:
            files.image = {exists}
        return is_acknowledged

    def _send_write(self, key: str, content: bytes | None) -> bool:
        try:
            if content is None:
                self._live.remove_object(key)
            else:
                self._live.put_object(key, content)
        except UNREACHABLE:
            self.refused += 1
            self._stop.wait(0.2)
            return False
        with self._lock:
            self.acknowledged += 1
        return True

    # -- in bundles --------------------------------------------------------------------------------
    def _write_bundles(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            key = rng.choice(list(self._bundles))
            match rng.choices(("new", "broken", "gone"), (75, 10, 15))[0]:
                case "new":
                    self._put_bundle(key, rng)
                case "broken":
                    self._put_invalid_bundle(key)
                case _:
                    self._delete_bundle(key)
            self._stop.wait(rng.uniform(0.5, 1.5))

    def _put_bundle(self, key: str, rng: random.Random) -> bool:
        """Drop a new version of this bundle with about two thirds of its users."""
        self._archives += 1
        number = self._archives
        csvs = {
            user: rng.choices((number, INVALID_NUMBER, None), (60, 4, 36))[0]
            for user in self._bundles[key]
        }
        images = {user: rng.random() < 0.4 for user in self._bundles[key]}
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as members:
            for user, csv in csvs.items():
                if csv is not None:
                    members.writestr(f"people/{user}.csv", make_body(user, csv, BUNDLE_KIND))
                if images[user]:
                    members.writestr(f"people/{user}.png", _IMAGE)
        return self._send_bundle(key, archive.getvalue(), lambda user: (csvs[user], {images[user]}))

    def _put_invalid_bundle(self, key: str) -> bool:
        self._archives += 1
        return self._send_bundle(
            key,
            b"PK\x03\x04 is cut off, %d" % self._archives,
            lambda _: (ANY_NUMBER, {True, False}),
        )

    def _delete_bundle(self, key: str) -> bool:
        return self._send_bundle(key, None, lambda _: (None, {False}))

    def _send_bundle(
        self,
        key: str,
        content: bytes | None,
        describe_user: Callable[[str], tuple[int | None, set[bool]]],
    ) -> bool:
        """Send an archive (None: delete it), and return whether that was acknowledged.

        `describe_user` returns which CSV, and which states of the image, a user then has in the
        bundle.
        """
        for user in self._bundles[key]:
            files = self.users[user].bundled
            (csv, image) = describe_user(user)
            files.add_possible_csv(csv)
            files.image = files.image | image
        self._uncertain_bundles.add(key)
        if not self._send_write(key, content):
            return False
        self._uncertain_bundles.remove(key)
        self.bundled += 1
        for user in self._bundles[key]:
            files = self.users[user].bundled
            (csv, image) = describe_user(user)
            files.csv = {csv}
            files.image = image
        return True

    # -- at the end --------------------------------------------------------------------------------
    def confirm_uncertain(self) -> None:
        """Repeat uncertain writes until they are acknowledged."""
        for user_id, user in self.users.items():
            while len(user.own.csv) > 1:
                self.put_csv(user_id, max(user.own.valid, default=0) + 1)
            while len(user.own.image) > 1:
                self.put_image(user_id, exists=True)
        rng = random.Random(self._archives)
        for key in self._uncertain_bundles.copy():
            while not self._put_bundle(key, rng):
                pass

    def find_wrong_users(self, rows: Mapping[str, Row]) -> list[str]:
        """Return the users with a row that does not match their files."""
        return [
            user_id
            for user_id, user in self.users.items()
            if not user.is_correct(user_id, rows.get(user_id))
        ]
