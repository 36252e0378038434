"""What clients see during a fault: each published row, and each response of the API."""

import http.client
import threading
import time
from collections import Counter
from contextlib import closing, suppress

from local.ports import HOST
from shared.object_store import NotModified, ObjectNotFound, StoreUnavailable
from shared.output_csv import OutputCsv
from shared.published import OUTPUT
from shared.records import Row
from tests.faults.live.rowdrop import Live
from tests.faults.live.traffic import Traffic, version_of


class Eyes:
    """Reads output.csv and sends GET /data repeatedly, while it is in a `with` block.

    - `stale`: rows that were older than a row seen before, or never true.
    - `doubled`: users with two lines.
    - `answers`: numbers of responses to GET /data by status (None: no response within 10 s).
    """

    def __init__(self, live: Live, traffic: Traffic) -> None:
        self._live, self._traffic = live, traffic
        self.stale: list[str] = []
        self.doubled: set[str] = set()
        self.answers: Counter[int | None] = Counter()
        self.versions = 0
        self._newest: dict[tuple[str, str], int] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._ask)]

    def __enter__(self) -> "Eyes":
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        etag: str | None = None
        while not self._stop.wait(0.2):
            with suppress(ObjectNotFound, StoreUnavailable, NotModified):
                stored = self._live.output.get(OUTPUT, etag)
                etag = stored.etag
                self.versions += 1
                self._look_at(list(OutputCsv(stored.body).rows()))

    def _look_at(self, rows: list[Row]) -> None:
        self.doubled |= {user_id for user_id, lines in Counter(row.user_id for row in rows).items() if lines > 1}
        for row in rows:
            if row.user_id not in self._traffic.users:
                continue
            version = version_of(row)
            if version is None or not self._traffic.users[row.user_id].known(version):
                self.stale.append(f"{row.user_id}: expected a row that was true at some time, found {row}")
                continue
            newest = self._newest.get((row.user_id, version.kind), -1)
            if version.number < newest:
                self.stale.append(
                    f"{row.user_id}: expected no version before {newest}, found {version.kind}{version.number}"
                )
            self._newest[row.user_id, version.kind] = version.number

    def _ask(self) -> None:
        with closing(http.client.HTTPConnection(HOST, self._live.api_port, timeout=10)) as connection:
            while not self._stop.wait(0.05):
                self.answers[self._status(connection)] += 1

    def _status(self, connection: http.client.HTTPConnection) -> int | None:
        try:
            connection.request("GET", "/data")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return None
        return response.status


def timed_post(live: Live) -> tuple[int | None, float]:
    """Send POST /data, and return its status and the seconds until the response.

    Without a response, there is no status.
    """
    connection = http.client.HTTPConnection(HOST, live.api_port, timeout=30)
    began = time.monotonic()
    try:
        connection.request("POST", "/data")
        return connection.getresponse().status, time.monotonic() - began
    except (OSError, http.client.HTTPException):
        return None, time.monotonic() - began
    finally:
        connection.close()
