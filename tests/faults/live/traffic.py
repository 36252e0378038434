"""Who drops files while something goes wrong, what was acknowledged, and what must come of it.

Each user belongs to one writer, so the order of its writes is known.  A write that ends in an error may have been done
or not; until the next acknowledged one both are possible.  The n-th CSV of all says n, in the name and in the birth
date, so that a row tells which version of the file it was made of.
"""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.records import Row
from tests.faults.live.rowdrop import UNREACHABLE, Live

BROKEN = -1
"""A CSV that is no person's."""
_DAY_MS = 86_400_000


@dataclass
class User:
    """What its files may be now: the number of its CSV (None: there is none), and whether it has an image."""

    csv: set[int | None] = field(default_factory=lambda: {None})
    image: set[bool] = field(default_factory=lambda: {False})
    valid: set[int] = field(default_factory=set)
    """All numbers that its CSV may ever have said."""

    def explains(self, user_id: str, row: Row | None) -> bool:
        """Whether this row is right, if nothing more is to come."""
        version = version_of(row)
        if version not in self.csv and not (BROKEN in self.csv and (row is None or version in self.valid)):
            return False
        return row is None or row.img_path in {f"src-data/{user_id}.png" if there else "" for there in self.image}


def version_of(row: Row | None) -> int | None:
    """Which version of the CSV a row was made of; an impossible one if the row is none that was ever written."""
    if row is None:
        return None
    number = row.birthts // _DAY_MS
    whole = (row.first_name, row.last_name, row.birthts) == (f"V{number}", row.user_id, number * _DAY_MS)
    return number if whole else -2


def body(user_id: str, number: int) -> bytes:
    """The CSV with this number."""
    if number == BROKEN:
        return b"first_name,last_name\nno,birthts\n"
    return f"first_name,last_name,birthts\nV{number},{user_id},{number * _DAY_MS}\n".encode()


class Traffic:
    """`writers` threads that drop files for `users` users, `per_second` writes together, while it is `with`.

    `acknowledged` counts the writes that MinIO said were done, `refused` the others.
    """

    def __init__(self, live: Live, seed: int, users: int = 200, writers: int = 4, per_second: float = 60) -> None:
        self._live, self._pause = live, writers / per_second
        self.users = {f"{seed}-{number:04}": User() for number in range(users)}
        self.acknowledged = self.refused = 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        names = list(self.users)
        self._threads = [
            threading.Thread(target=self._write, args=(random.Random(seed * 100 + number), names[number::writers]))
            for number in range(writers)
        ]

    def __enter__(self) -> "Traffic":
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Come to an end."""
        self.stop()

    def stop(self) -> None:
        """No write is under way any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, dice: random.Random, names: Sequence[str]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self._write_once(dice, dice.choice(names), number)
            time.sleep(dice.uniform(0.5, 1.5) * self._pause)

    def _write_once(self, dice: random.Random, user_id: str, number: int) -> None:
        match dice.choices(("csv", "broken", "gone", "image", "no image"), (70, 6, 8, 10, 6))[0]:
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
        """Have this user's CSV be so; whether that was acknowledged."""
        user = self.users[user_id]
        with self._lock:
            user.csv = user.csv | {number}
            user.valid = user.valid | ({number} if number is not None and number != BROKEN else set())
        done = self._send(f"{user_id}.csv", None if number is None else body(user_id, number))
        if done:
            user.csv = {number}
        return done

    def image(self, user_id: str, *, there: bool) -> bool:
        """The same for its image."""
        user = self.users[user_id]
        user.image = user.image | {there}
        done = self._send(f"{user_id}.png", b"\x89PNG" if there else None)
        if done:
            user.image = {there}
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

    def settle(self) -> None:
        """Write what is uncertain once more, until it is acknowledged."""
        for user_id, user in self.users.items():
            while len(user.csv) > 1:
                self.csv(user_id, max(user.valid, default=0) + 1)
            while len(user.image) > 1:
                self.image(user_id, there=True)

    def wrong(self, rows: Mapping[str, Row]) -> list[str]:
        """The users whose row is not what their files say."""
        return [user_id for user_id, user in self.users.items() if not user.explains(user_id, rows.get(user_id))]

    def known(self, user_id: str, version: int) -> bool:
        """Whether some CSV of this user may have said so."""
        return version in self.users[user_id].valid
