"""Poison files: a file that kills or stalls its reader affects no other user. Uses real workers."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.formats.records import QUARANTINE_REASON, InvalidCsv, ValidCsv
from shared.formats.source_keys import make_csv_key
from shared.object_store import StoreUnavailable
from shared.redis_keys import CHANGE_VERSIONS, FAST_EVENTS
from shared.scripts import new_token
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.api_process import wait_until
from tests.fakes import DelegatingStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.reading.csv_parsing import parse_csv
from worker.state.loss_signals import TrustState
from worker.state.read_attempts import MAX_READ_ATTEMPTS, ReadAttempts
from worker.watchdog.broken_reads import BROKEN_READ_TICKS
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.watchdog import Watchdog

ROOT = Path(__file__).parents[2]


class Worker:
    """A worker on a queue. `keep_running` restarts it and records its exit code."""

    def __init__(self, settings: Settings, queue: str, pool: str, log: Path) -> None:
        self.log = log
        self.exit_codes = list[int]()
        celery = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.integration.poisoned_worker",
            "worker",
        ]
        self._command = [*celery, "-Q", queue, "--pool", pool, "-c", "1", "-n", f"{new_token()}@%h"]
        self._environment = os.environ | {
            "MINIO_ENDPOINT": settings.minio_endpoint,
            "MINIO_ACCESS_KEY": settings.minio_access_key,
            "MINIO_SECRET_KEY": settings.minio_secret_key,
            "REDIS_URL": settings.redis_url,
            "SOURCE_BUCKET": settings.source_bucket,
            "OUTPUT_BUCKET": settings.output_bucket,
        }
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def keep_running(self) -> None:
        exit_code = self._process.poll()
        if exit_code is not None:
            self.exit_codes.append(exit_code)
            self._process = self._start()

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[Worker] = []

    def start(queue: str = EVENTS_QUEUE, pool: str = "solo") -> Worker:
        started.append(Worker(settings, queue, pool, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def attempts(rowdrop: RowdropHarness) -> ReadAttempts:
    return rowdrop.state.attempts


def tick_until(
    condition: Callable[[], object], rowdrop: RowdropHarness, watchdog: Watchdog, *workers: Worker
) -> None:
    """Tick the watchdog, publish and restart dead workers until the condition holds."""
    last_tick_at = 0.0

    def tick_and_check() -> object:
        nonlocal last_tick_at
        for worker in workers:
            worker.keep_running()
        if time.monotonic() - last_tick_at > 0.2:
            watchdog.tick()
            last_tick_at = time.monotonic()
        rowdrop.publish_pending()
        return condition()

    wait_until(tick_and_check, timeout_s=100)


def is_quarantined(rowdrop: RowdropHarness, user: str) -> bool:
    return (
        user in rowdrop.read_rejects() and rowdrop.read_rejects()[user].reason == QUARANTINE_REASON
    )


def drop_and_send(rowdrop: RowdropHarness, poison: bytes, other_users: list[str]) -> None:
    rowdrop.put_files("poison", make_csv("Good"))
    rowdrop.process_users("poison")
    for user in other_users:
        rowdrop.put_files(user)
    rowdrop.put_files("poison", poison, images=["png"])
    rowdrop.mark_users("poison", *other_users)
    rowdrop.services.clients.tasks.refresh(["poison", *other_users])


@pytest.mark.parametrize(
    ("poison", "exit_code"), [("KILL", -signal.SIGKILL), ("HANG", -signal.SIGALRM)]
)
def test_isolated_reads_quarantine_poison_file_and_publish_others(
    rowdrop: RowdropHarness,
    watchdog: Watchdog,
    attempts: ReadAttempts,
    start_worker: StartWorker,
    poison: str,
    exit_code: int,
) -> None:
    worker = start_worker()
    other_users = [f"u{number}" for number in range(20)]
    drop_and_send(rowdrop, make_csv(poison), other_users)
    tick_until(lambda: rowdrop.state.users.dirty_users() <= {"poison"}, rowdrop, watchdog, worker)
    assert {user: row.first_name for user, row in rowdrop.read_rows().items()} == {
        "poison": "Good",
        **dict.fromkeys(other_users, "Ivan"),
    }
    tick_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watchdog, worker)
    assert worker.exit_codes == [exit_code] * (
        1 + MAX_READ_ATTEMPTS
    )  # one batch, then all isolated attempts
    reject = rowdrop.read_rejects()["poison"]
    assert (reject.key, reject.etag) == ("poison.csv", rowdrop.source.get_etag("poison.csv"))
    row = rowdrop.read_rows()["poison"]  # a held row, as with any other reject
    assert (row.first_name, row.img_path) == ("Good", f"{rowdrop.source.bucket}/poison.png")
    assert rowdrop.state.users.dirty_users() == set()
    assert attempts.isolated_ids() == {"poison"}
    if poison == "HANG":
        assert "in parse_or_crash" in worker.log.read_text()  # faulthandler logs where it hung

    rowdrop.source.delete("poison.png")  # a mark without a new CSV version costs no worker
    rowdrop.mark_users("poison")
    tick_until(lambda: not rowdrop.state.users.dirty_users(), rowdrop, watchdog, worker)
    assert rowdrop.read_rows()["poison"].img_path == ""
    assert len(worker.exit_codes) == 1 + MAX_READ_ATTEMPTS

    rowdrop.put_files("poison", make_csv("Fixed"))
    rowdrop.mark_users("poison")
    tick_until(lambda: not rowdrop.state.users.dirty_users(), rowdrop, watchdog, worker)
    assert rowdrop.read_rows()["poison"].first_name == "Fixed"
    assert rowdrop.read_rejects() == {}
    assert attempts.isolated_ids() == set()


def test_read_attempts_restart_for_another_version(
    rowdrop: RowdropHarness, watchdog: Watchdog, start_worker: StartWorker
) -> None:
    worker = start_worker()
    drop_and_send(rowdrop, make_csv("KILL"), [])
    tick_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watchdog, worker)
    rowdrop.put_files("poison", make_csv("KILL", "once more"))
    rowdrop.mark_users("poison")
    etag = rowdrop.source.get_etag("poison.csv")
    tick_until(lambda: rowdrop.read_rejects()["poison"].etag == etag, rowdrop, watchdog, worker)
    assert len(worker.exit_codes) == 1 + 2 * MAX_READ_ATTEMPTS


def test_isolated_reads_quarantine_poison_file_in_sweep_page(
    rowdrop: RowdropHarness, watchdog: Watchdog, start_worker: StartWorker
) -> None:
    users = [f"u{number:03d}" for number in range(600)]  # enough to be read by one LIST, in a page
    list(rowdrop.services.clients.read_pool.map(rowdrop.put_files, users))
    rowdrop.put_files("poison", make_csv("KILL"))
    rowdrop.services.clients.tasks.sweep("test")
    worker = start_worker(BULK_QUEUE, "prefork")
    tick_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watchdog, worker)
    tick_until(lambda: not rowdrop.state.users.dirty_users(), rowdrop, watchdog, worker)
    assert set(rowdrop.read_rows()) == set(users)
    assert worker.exit_codes == []  # only children of the prefork pool died
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )


def test_sweep_grants_quarantined_file_one_attempt(
    rowdrop: RowdropHarness, watchdog: Watchdog, attempts: ReadAttempts, start_worker: StartWorker
) -> None:
    worker = start_worker()
    drop_and_send(rowdrop, make_csv("KILL"), [])
    tick_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watchdog, worker)
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep.run("test") == 1
    rowdrop.services.clients.redis.delete(BULK_QUEUE)
    exits_before = len(worker.exit_codes)
    rowdrop.mark_users("poison")  # an event, so that the worker on the events queue reads it
    tick_until(lambda: not rowdrop.state.users.dirty_users(), rowdrop, watchdog, worker)
    assert len(worker.exit_codes) == exits_before + 1
    assert is_quarantined(rowdrop, "poison")
    # A reader that survives the same file ends its quarantine.
    rowdrop.sweep.run("test")
    rowdrop.services.isolated_reads.refresh_isolated("poison")
    rowdrop.publish_pending()
    assert rowdrop.read_rows()["poison"].first_name == "KILL"
    assert (rowdrop.read_rejects(), attempts.isolated_ids()) == ({}, set())


# -- single parts ----------------------------------------------------------------------------------
def leave_attempt(rowdrop: RowdropHarness, user: str) -> None:
    """Leave an attempt as a killed worker does, and end it as the watchdog does."""
    attempts = rowdrop.state.attempts
    attempt = new_token()
    assert (
        attempts.begin_attempt(user, attempt, rowdrop.source.get_etag(make_csv_key(user)) or "")
        == "read"
    )
    attempts.expire_attempt(user, attempt)


def isolate_users(rowdrop: RowdropHarness, *users: str) -> None:
    """Leave a read as a killed worker does, and isolate its users as the watchdog does."""
    rowdrop.mark_users(*users)
    rowdrop.state.users.begin_read(users, "a-read")
    assert rowdrop.state.attempts.isolate("a-read", users) == list(users)


def test_refresher_records_read_until_it_ends(
    rowdrop: RowdropHarness, attempts: ReadAttempts
) -> None:
    active_reads: list[dict[str, list[str]]] = []

    def parse_and_record(key: str, stored: object) -> ValidCsv | InvalidCsv:
        active_reads.append(attempts.users_of_reads(attempts.active_reads()))
        return parse_csv(key, stored)  # type: ignore[arg-type]

    rowdrop.put_files("u")
    rowdrop.mark_users("u", "v")
    rowdrop.create_readers(csv_parser=parse_and_record).refresher.refresh(["u", "v"])
    assert [*active_reads[0].values()] == [["u", "v"]]
    assert attempts.active_reads() == []
    rowdrop.services.refresher.refresh(["u"])
    rowdrop.services.refresher.refresh(["clean"])
    assert attempts.active_reads() == []


def test_refresher_clears_read_record_after_exception(
    rowdrop: RowdropHarness, attempts: ReadAttempts
) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    rowdrop.mark_users("u")
    with pytest.raises(RuntimeError):
        rowdrop.create_readers(pool=pool).refresher.refresh(["u"])
    assert attempts.active_reads() == []


def test_read_attempts_exclude_outages(rowdrop: RowdropHarness, attempts: ReadAttempts) -> None:
    isolate_users(rowdrop, "u")
    bucket = rowdrop.source.bucket
    client = rowdrop.services.clients.create_minio_client()
    client.remove_bucket(bucket)
    for _ in range(2 * MAX_READ_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            rowdrop.services.isolated_reads.refresh_isolated("u")
    assert attempts.isolated_users()["u"].attempt_count == 0
    assert attempts.active_reads() == []
    client.make_bucket(bucket)
    rowdrop.put_files("u")
    for _ in range(MAX_READ_ATTEMPTS - 1):
        leave_attempt(rowdrop, "u")
    rowdrop.services.isolated_reads.refresh_isolated("u")
    rowdrop.publish_pending()
    assert list(rowdrop.read_rows()) == ["u"]
    assert attempts.isolated_ids() == set()


def test_read_attempts_exclude_outage_during_attempt(
    rowdrop: RowdropHarness, attempts: ReadAttempts
) -> None:
    class BucketWithoutGet(DelegatingStore):
        """A bucket that still answers HEAD, and no GET."""

        def get(self, *_: object, **__: object) -> object:
            raise StoreUnavailable("gone")

    rowdrop.put_files("u")
    isolate_users(rowdrop, "u")
    readers = rowdrop.create_readers(source=BucketWithoutGet(rowdrop.source))  # type: ignore[arg-type]
    for _ in range(2 * MAX_READ_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            readers.isolated_reads.refresh_isolated("u")
    assert attempts.isolated_users()["u"].attempt_count == 0


def test_read_attempts_allow_one_attempt_at_a_time(
    rowdrop: RowdropHarness, attempts: ReadAttempts
) -> None:
    rowdrop.put_files("u")
    isolate_users(rowdrop, "u")
    assert attempts.begin_attempt("u", "aa", "etag") == "read"
    assert attempts.begin_attempt("u", "bb", "etag") == "busy"
    rowdrop.services.isolated_reads.refresh_isolated("u")
    assert rowdrop.state.publish_queue.count_pending() == 0


def test_broken_reads_isolate_users_after_some_ticks(
    rowdrop: RowdropHarness, checks: WatchdogChecks, attempts: ReadAttempts
) -> None:
    rowdrop.mark_users("u", "v")
    rowdrop.state.users.begin_read(["u", "v", "clean"], "a-read")
    rowdrop.services.clients.redis.delete(EVENTS_QUEUE)
    for _ in range(BROKEN_READ_TICKS - 1):
        checks.broken_reads.isolate_broken_reads()
    assert attempts.isolated_ids() == set()
    checks.broken_reads.isolate_broken_reads()
    assert attempts.isolated_ids() == {"u", "v"}
    assert attempts.active_reads() == []


def messages(rowdrop: RowdropHarness) -> list[object]:
    """Return the arguments of the messages on the events queue, and empty it."""
    queue = rowdrop.redis
    arguments = [
        json.loads(base64.b64decode(json.loads(raw)["body"]))[0]
        for raw in queue.lrange(EVENTS_QUEUE, 0, -1)
    ]
    queue.delete(EVENTS_QUEUE)
    return arguments


def test_overdue_users_exclude_users_of_suspect_reads(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    rowdrop.mark_users("u", "v")
    rowdrop.state.users.begin_read(["u"], "a-read")
    for _ in range(2):
        checks.broken_reads.isolate_broken_reads()
    checks.overdue_users.tick(time.time() + 60)
    assert messages(rowdrop) == [[["v"]]]
    checks.broken_reads.isolate_broken_reads()
    checks.overdue_users.tick(time.time() + 60)
    assert messages(rowdrop) == [[["v"]]]
    checks.broken_reads.enqueue_isolated()
    assert messages(rowdrop) == [["u"]]


def test_event_inbox_leaves_isolated_user_to_watchdog(rowdrop: RowdropHarness) -> None:
    from worker.state.event_inbox import DecodedEntry

    isolate_users(rowdrop, "u")
    rowdrop.services.clients.redis.rpush(FAST_EVENTS, b"1")
    assert rowdrop.state.inbox.mark_and_pop([DecodedEntry(b"1", ["u", "v"])], time.time()) == ["v"]
    assert rowdrop.state.users.dirty_users() == {"u", "v"}


def test_read_attempts_end_after_successful_read(
    rowdrop: RowdropHarness, checks: WatchdogChecks, attempts: ReadAttempts
) -> None:
    rowdrop.put_files("u")
    isolate_users(rowdrop, "u", "clean")
    for _ in range(MAX_READ_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.services.refresher.refresh(["u", "clean"])  # by a message enqueued before the isolation
    rowdrop.publish_pending()
    assert attempts.isolated_ids() == set()
    isolate_users(rowdrop, "w")
    rowdrop.services.clients.redis.delete(CHANGE_VERSIONS)
    checks.broken_reads.enqueue_isolated()
    assert attempts.isolated_ids() == set()


def test_read_attempts_survive_emptied_redis(
    rowdrop: RowdropHarness, attempts: ReadAttempts
) -> None:
    rowdrop.put_files("u")
    isolate_users(rowdrop, "u")
    for _ in range(MAX_READ_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.services.isolated_reads.refresh_isolated("u")
    rowdrop.publish_pending()
    assert is_quarantined(rowdrop, "u")
    rowdrop.services.clients.redis.flushall()
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    rowdrop.services.rebuild.start(task_id)  # reads every user again, except the quarantined one
    rowdrop.run_bulk_work()
    assert attempts.isolated_users()["u"].is_exhausted
    rowdrop.services.isolated_reads.refresh_isolated("u")
    rowdrop.publish_pending()
    assert is_quarantined(rowdrop, "u")


def test_check_skips_quarantined_files(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    isolate_users(rowdrop, "u")
    for _ in range(MAX_READ_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.services.isolated_reads.refresh_isolated("u")
    rowdrop.publish_pending()
    assert rowdrop.find_differences() == []
    rowdrop.put_files("u", make_csv("Other"))
    assert len(rowdrop.find_differences()) == 2


def test_refresher_rejects_file_that_raises_internal_error(rowdrop: RowdropHarness) -> None:
    def parse_or_raise(key: str, stored: object) -> ValidCsv | InvalidCsv:
        if key == "b.csv":
            raise IndexError(key)
        return parse_csv(key, stored)  # type: ignore[arg-type]

    for user in "abc":
        rowdrop.put_files(user)
    rowdrop.mark_users(*"abc")
    rowdrop.create_readers(csv_parser=parse_or_raise).refresher.refresh([*"abc"])
    rowdrop.publish_pending()
    assert list(rowdrop.read_rows()) == ["a", "c"]
    assert "IndexError" in rowdrop.read_rejects()["b"].reason


def test_refresher_keeps_user_dirty_without_memory(rowdrop: RowdropHarness) -> None:
    def parse_without_memory(key: str, stored: object) -> ValidCsv | InvalidCsv:
        if key == "b.csv":
            raise MemoryError
        return parse_csv(key, stored)  # type: ignore[arg-type]

    for user in "abc":
        rowdrop.put_files(user)
    rowdrop.mark_users(*"abc")
    with pytest.raises(StoreUnavailable, match="MemoryError"):
        rowdrop.create_readers(csv_parser=parse_without_memory).refresher.refresh([*"abc"])
    rowdrop.publish_pending()
    assert list(rowdrop.read_rows()) == ["a", "c"]
    assert rowdrop.state.users.dirty_users() == {"b"}
