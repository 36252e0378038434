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

from shared.records import Row
from tests.faults.live.rowdrop import UNREACHABLE, Live

BROKEN = -1
"""The number of a CSV that is not valid."""
ANY = -2
"""Any earlier version: an invalid archive leaves visible what was visible before."""
OWN, BUNDLED = "V", "B"
_DAY_MS = 86_400_000
_IMAGE = b"\x89PNG"


class Version(NamedTuple):
    """The CSV from which a row was made: its `kind` (OWN or BUNDLED) and its number."""

    kind: str
    number: int


@dataclass
class Files:
    """The states that a user's files of one kind may have now.

    - `csv`: possible numbers of the CSV, None for no CSV.
    - `image`: possible states of the image, True if it exists.
    - `valid`: all numbers that a valid CSV may have had at any time.
    """

    kind: str
    csv: set[int | None] = field(default_factory=lambda: {None})
    image: set[bool] = field(default_factory=lambda: {False})
    valid: set[int] = field(default_factory=set)

    def may_become(self, number: int | None) -> None:
        """Add a possible number of the CSV."""
        self.csv = self.csv | {number}
        self.valid = self.valid | ({number} if number is not None and number >= 0 else set())


class User:
    """A user with files of its own, and files in a bundle."""

    def __init__(self) -> None:
        self.own, self.bundled = Files(OWN), Files(BUNDLED)

    def known(self, version: Version | None) -> bool:
        """Return whether some CSV of this user may have been this version."""
        return version is not None and version.number in (self.own if version.kind == OWN else self.bundled).valid

    def explains(self, user_id: str, row: Row | None) -> bool:
        """Return whether this row is right, provided that no work is left."""
        version = version_of(row)
        may_be: set[int | None] = {ANY if number == BROKEN else number for number in self.own.csv}
        right = self._is(OWN, may_be, row, version)
        if None in may_be:
            right = right or self._is(BUNDLED, self.bundled.csv, row, version)
        return right and (row is None or row.img_path in self._images(user_id))

    def _is(self, kind: str, numbers: set[int | None], row: Row | None, version: Version | None) -> bool:
        """Return whether a CSV of this kind, with one of these numbers, results in this row."""
        if numbers & {BROKEN, ANY}:  # a held row: the last valid one
            return row is None or self.known(version)
        if row is None:
            return kind == BUNDLED and None in numbers
        return version is not None and version.kind == kind and version.number in numbers

    def _images(self, user_id: str) -> set[str]:
        bundled = {f"processed-data/images/{user_id}.png" if there else "" for there in self.bundled.image}
        own = {f"src-data/{user_id}.png"} if True in self.own.image else set()
        return own | (bundled if False in self.own.image else set())


def version_of(row: Row | None) -> Version | None:
    """Return the version of the CSV from which a row was made.

    Returns None for no row, and for a row that no client wrote.
    """
    if row is None:
        return None
    kind, number = row.first_name[:1], row.birthts // _DAY_MS
    whole = (row.first_name, row.last_name, row.birthts) == (f"{kind}{number}", row.user_id, number * _DAY_MS)
    return Version(kind, number) if whole and kind in {OWN, BUNDLED} else None


def body(user_id: str, number: int, kind: str = OWN) -> bytes:
    """Return the body of the CSV with this number."""
    if number == BROKEN:
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
        self, live: Live, seed: int, users: int = 200, writers: int = 4, per_second: float = 60, bundles: int = 3
    ) -> None:
        self._live, self._pause = live, writers / per_second
        self.users = {f"{seed}-{number:04}": User() for number in range(users)}
        self.acknowledged = self.refused = self.bundled = 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        names, dice = list(self.users), [random.Random(seed * 100 + number) for number in range(writers + 1)]
        self._bundles = {f"{seed}-{number}.zip": names[number::bundles] for number in range(bundles)}
        self._uncertain: set[str] = set()
        self._archives = 0
        self._threads = [
            threading.Thread(target=self._write, args=(dice[number], names[number::writers]))
            for number in range(writers)
        ]
        if bundles:
            self._threads.append(threading.Thread(target=self._write_bundles, args=(dice[writers],)))

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
    def _write(self, dice: random.Random, names: Sequence[str]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self._write_once(dice, dice.choice(names), number)
            time.sleep(dice.uniform(0.5, 1.5) * self._pause)

    def _write_once(self, dice: random.Random, user_id: str, number: int) -> None:
        match dice.choices(("csv", "broken", "gone", "image", "no image"), (65, 6, 11, 10, 8))[0]:
            case "csv":
                self.csv(user_id, number)
            case "broken":
                self.csv(user_id, BROKEN)
            case "gone":
                self.csv(user_id, None)
            case "image":
                self.image(user_id, there=True)
            case _:
                self.image(user_id, there=False)

    def csv(self, user_id: str, number: int | None) -> bool:
        """Write the user's CSV with this number (None: delete it).

        Returns whether the write was acknowledged.
        """
        files = self.users[user_id].own
        files.may_become(number)
        done = self._send(f"{user_id}.csv", None if number is None else body(user_id, number))
        if done:
            files.csv = {number}
        return done

    def image(self, user_id: str, *, there: bool) -> bool:
        """Write or delete the user's image.

        Returns whether the write was acknowledged.
        """
        files = self.users[user_id].own
        files.image = files.image | {there}
        done = self._send(f"{user_id}.png", _IMAGE if there else None)
        if done:
            files.image = {there}
        return done

    def _send(self, key: str, content: bytes | None) -> bool:
        try:
            if content is None:
                self._live.remove(key)
            else:
                self._live.put(key, content)
        except UNREACHABLE:
            self.refused += 1
            self._stop.wait(0.2)
            return False
        with self._lock:
            self.acknowledged += 1
        return True

    # -- in bundles --------------------------------------------------------------------------------
    def _write_bundles(self, dice: random.Random) -> None:
        while not self._stop.is_set():
            key = dice.choice(list(self._bundles))
            match dice.choices(("new", "broken", "gone"), (75, 10, 15))[0]:
                case "new":
                    self._bundle(key, dice)
                case "broken":
                    self._broken_bundle(key)
                case _:
                    self._no_bundle(key)
            self._stop.wait(dice.uniform(0.5, 1.5))

    def _bundle(self, key: str, dice: random.Random) -> bool:
        """Drop a new version of this bundle with about two thirds of its users."""
        self._archives += 1
        number = self._archives
        csvs = {user: dice.choices((number, BROKEN, None), (60, 4, 36))[0] for user in self._bundles[key]}
        images = {user: dice.random() < 0.4 for user in self._bundles[key]}
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as members:
            for user, csv in csvs.items():
                if csv is not None:
                    members.writestr(f"people/{user}.csv", body(user, csv, BUNDLED))
                if images[user]:
                    members.writestr(f"people/{user}.png", _IMAGE)
        return self._send_bundle(key, archive.getvalue(), lambda user: (csvs[user], {images[user]}))

    def _broken_bundle(self, key: str) -> bool:
        self._archives += 1
        return self._send_bundle(key, b"PK\x03\x04 is cut off, %d" % self._archives, lambda _: (ANY, {True, False}))

    def _no_bundle(self, key: str) -> bool:
        return self._send_bundle(key, None, lambda _: (None, {False}))

    def _send_bundle(
        self, key: str, content: bytes | None, says: Callable[[str], tuple[int | None, set[bool]]]
    ) -> bool:
        """Send an archive (None: delete it), and return whether that was acknowledged.

        `says` returns which CSV, and which states of the image, a user then has in the bundle.
        """
        for user in self._bundles[key]:
            files, (csv, image) = self.users[user].bundled, says(user)
            files.may_become(csv)
            files.image = files.image | image
        self._uncertain.add(key)
        if not self._send(key, content):
            return False
        self._uncertain.remove(key)
        self.bundled += 1
        for user in self._bundles[key]:
            files, (csv, image) = self.users[user].bundled, says(user)
            files.csv, files.image = {csv}, image
        return True

    # -- at the end --------------------------------------------------------------------------------
    def settle(self) -> None:
        """Repeat uncertain writes until they are acknowledged."""
        for user_id, user in self.users.items():
            while len(user.own.csv) > 1:
                self.csv(user_id, max(user.own.valid, default=0) + 1)
            while len(user.own.image) > 1:
                self.image(user_id, there=True)
        dice = random.Random(self._archives)
        for key in self._uncertain.copy():
            while not self._bundle(key, dice):
                pass

    def wrong(self, rows: Mapping[str, Row]) -> list[str]:
        """Return the users with a row that does not match their files."""
        return [user_id for user_id, user in self.users.items() if not user.explains(user_id, rows.get(user_id))]
