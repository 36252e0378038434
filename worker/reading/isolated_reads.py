"""Read users in isolation that may have killed a worker, and quarantine their CSVs in the end."""

import logging
import time
from contextlib import suppress
from functools import partial

from redis.exceptions import RedisError

from shared.formats.records import QUARANTINE_REASON, CsvVersion, InvalidCsv
from shared.formats.source_keys import make_csv_key
from shared.object_store import StoreUnavailable
from shared.scripts import new_token
from worker.reading.parallel import MAX_READ_S, run_in_order
from worker.reading.refresher import Refresher
from worker.reading.source_health import SourceHealth
from worker.reading.user_reader import UserReader
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates

logger = logging.getLogger(__name__)


class IsolatedReads:
    """Reads isolated users, one at a time, within their retry budget."""

    def __init__(
        self,
        refresher: Refresher,
        reader: UserReader,
        health: SourceHealth,
        states: UserStates,
        attempts: ReadAttempts,
    ) -> None:
        self._refresher = refresher
        self._reader = reader
        self._health = health
        self._states = states
        self._attempts = attempts
        self._unrefunded = list[tuple[str, str]]()

    def refresh_isolated(self, user_id: str) -> None:
        """Read one user in isolation, because its file may have killed a worker.

        One version of the CSV gets a limited number of attempts
        (`worker.state.read_attempts.MAX_READ_ATTEMPTS`). Then it is quarantined: it becomes a
        reject without being read. Raises `StoreUnavailable`; that attempt is refunded.
        """
        self._refund_attempts()
        if not self._states.begin_read([user_id]):
            return
        version = self._find_csv_version(user_id)
        etag = version[0] if version else None
        attempt_token = new_token()
        # "busy" has no case: another attempt is in progress, or the watchdog is about to end it.
        match self._attempts.begin_attempt(user_id, attempt_token, etag or ""):
            case "not_isolated":
                self._refresher.refresh([user_id])
            case "read":
                self._read_isolated(user_id, attempt_token)
            case "exhausted" if etag is not None:
                self._quarantine_csv(user_id, etag)
            case "exhausted":  # there is no CSV to quarantine
                self._refresher.refresh([user_id])

    def _read_isolated(self, user_id: str, attempt_token: str) -> None:
        logger.info("reading user %s in isolation, as it may have killed a worker", user_id)
        try:
            self._refresher.refresh([user_id])
        except BaseException:
            # The worker survived, so this attempt must not count against the file.
            self._unrefunded.append((user_id, attempt_token))
            with suppress(RedisError):
                self._refund_attempts()
            raise
        self._attempts.clear_users([user_id])

    def _refund_attempts(self) -> None:
        """Refund attempts that ended normally.

        If Redis is unavailable, the attempt stays listed, and the next isolated read retries it.
        """
        while self._unrefunded:
            self._attempts.refund_attempt(*self._unrefunded[-1])
            self._unrefunded.pop()

    def _quarantine_csv(self, user_id: str, etag: str) -> None:
        """Submit a reject for a CSV without attempts left; do not read it."""
        batch = self._states.begin_read([user_id])
        if not batch:
            return
        version = self._find_csv_version(user_id)
        last_modified = version[1] if version else 0
        # The ETag is that of the failed attempts: a newer version of the CSV has a mark of its own
        # and must not be quarantined.
        csv = InvalidCsv(
            CsvVersion(make_csv_key(user_id), etag, last_modified), QUARANTINE_REASON, None
        )
        batch_results = self._reader.read_users([user_id], batch.catalog_version, {user_id: csv})
        self._refresher.submit_results(batch, batch_results)
        logger.warning(
            "user %s is quarantined: its CSV is a reject until it changes or a sweep retries it",
            user_id,
        )

    def _find_csv_version(self, user_id: str) -> tuple[str, int] | None:
        """Return ETag and LastModified of the user's CSV, or None.

        Raises `StoreUnavailable` and reports it to the operator.
        """
        call = partial(self._reader.find_version, make_csv_key(user_id))
        (version,) = run_in_order([call], time.monotonic() + MAX_READ_S)
        if isinstance(version, StoreUnavailable):
            self._health.report_failure(version)
            raise version
        return version
