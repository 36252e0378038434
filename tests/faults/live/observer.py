"""What clients see during a fault: each published row, and each response of the API."""

import http.client
import threading
import time
from collections import Counter
from contextlib import closing, suppress

from local.ports import HOST
from shared.formats.object_names import OUTPUT_KEY
from shared.formats.output_csv import OutputCsv
from shared.formats.records import Row
from shared.object_store import NotModified, ObjectNotFound, StoreUnavailable
from tests.faults.live.rowdrop import LiveRowdrop
from tests.faults.live.traffic import Traffic, parse_version


class TrafficObserver:
    """Reads output.csv and sends GET /data repeatedly, while it is in a `with` block.

    - `stale`: rows that were older than a row seen before, or never true.
    - `duplicate_users`: users with two lines.
    - `status_counts`: numbers of responses to GET /data by status (None: no response within 10 s).
    """

    def __init__(self, live: LiveRowdrop, traffic: Traffic) -> None:
        self._live = live
        self._traffic = traffic
        self.stale: list[str] = []
        self.duplicate_users: set[str] = set()
        self.status_counts: Counter[int | None] = Counter()
        self.version_count = 0
        self._newest_versions: dict[tuple[str, str], int] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._poll_output),
            threading.Thread(target=self._poll_api),
        ]

    def __enter__(self) -> "TrafficObserver":
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _poll_output(self) -> None:
        etag: str | None = None
        while not self._stop.wait(0.2):
            with suppress(ObjectNotFound, StoreUnavailable, NotModified):
                stored = self._live.output.get(OUTPUT_KEY, etag)
                etag = stored.etag
                self.version_count += 1
                self._check_rows(list(OutputCsv(stored.body).iterate_rows()))

    def _check_rows(self, rows: list[Row]) -> None:
        self.duplicate_users |= {
            user_id for user_id, lines in Counter(row.user_id for row in rows).items() if lines > 1
        }
        for row in rows:
            if row.user_id not in self._traffic.users:
                continue
            version = parse_version(row)
            if version is None or not self._traffic.users[row.user_id].is_known(version):
                self.stale.append(
                    f"{row.user_id}: expected a row that was true at some time, found {row}"
                )
                continue
            newest = self._newest_versions.get((row.user_id, version.kind), -1)
            if version.number < newest:
                self.stale.append(
                    f"{row.user_id}: expected no version before {newest}, "
                    f"found {version.kind}{version.number}"
                )
            self._newest_versions[row.user_id, version.kind] = version.number

    def _poll_api(self) -> None:
        with closing(
            http.client.HTTPConnection(HOST, self._live.api_port, timeout=10)
        ) as connection:
            while not self._stop.wait(0.05):
                self.status_counts[self._get_status(connection)] += 1

    def _get_status(self, connection: http.client.HTTPConnection) -> int | None:
        try:
            connection.request("GET", "/data")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return None
        return response.status


def measure_post(live: LiveRowdrop) -> tuple[int | None, float]:
    """Send POST /data, and return its status and the seconds until the response.

    Without a response, there is no status.
    """
    connection = http.client.HTTPConnection(HOST, live.api_port, timeout=30)
    started_at = time.monotonic()
    try:
        connection.request("POST", "/data")
        return connection.getresponse().status, time.monotonic() - started_at
    except (OSError, http.client.HTTPException):
        return None, time.monotonic() - started_at
    finally:
        connection.close()
