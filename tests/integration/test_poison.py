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

from shared.keys import csv_key
from shared.object_store import StoreUnavailable
from shared.records import QUARANTINED, InvalidCsv, ValidCsv
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.api_process import eventually
from tests.integration.stepping import Stepping, csv_of
from worker.backlog import new_token
from worker.evidence import LOOKS_BROKEN_OFF, Watch
from worker.refresh import Judge, Refresher, judge
from worker.trials import MOST_ATTEMPTS, Trials

ROOT = Path(__file__).parents[2]


class Worker:
    """A worker on a queue. `keep_running` restarts it as supervisor does. `ends`: exit codes."""

    def __init__(self, settings: Settings, queue: str, pool: str, log: Path) -> None:
        self.log, self.ends = log, list[int]()
        celery = [sys.executable, "-m", "celery", "-A", "tests.integration.poisoned_worker", "worker"]
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
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def keep_running(self) -> None:
        end = self._process.poll()
        if end is not None:
            self.ends.append(end)
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
def trials(rowdrop: Stepping) -> Trials:
    return Trials(rowdrop.wiring.redis)


def look_until(condition: Callable[[], object], rowdrop: Stepping, watch: Watch, *workers: Worker) -> None:
    """Tick the watchdog, publish and restart dead workers until the condition holds."""
    looked = 0.0

    def holds() -> object:
        nonlocal looked
        for worker in workers:
            worker.keep_running()
        if time.monotonic() - looked > 0.2:
            watch.tick()
            looked = time.monotonic()
        rowdrop.publish()
        return condition()

    eventually(holds, timeout_s=100)


def is_quarantined(rowdrop: Stepping, user: str) -> bool:
    return user in rowdrop.rejects() and rowdrop.rejects()[user].reason == QUARANTINED


def drop_and_send(rowdrop: Stepping, poison: bytes, neighbours: list[str]) -> None:
    rowdrop.drop("poison", csv_of("Good"))
    rowdrop.land("poison")
    for user in neighbours:
        rowdrop.drop(user)
    rowdrop.drop("poison", poison, images=["png"])
    rowdrop.mark("poison", *neighbours)
    rowdrop.wiring.tasks.refresh(["poison", *neighbours])


@pytest.mark.parametrize(("poison", "end"), [("KILL", -signal.SIGKILL), ("HANG", -signal.SIGALRM)])
def test_who_kills_or_stalls_its_worker_is_quarantined_and_its_neighbours_are_published(
    rowdrop: Stepping, watch: Watch, trials: Trials, start_worker: StartWorker, poison: str, end: int
) -> None:
    worker = start_worker()
    neighbours = [f"u{number}" for number in range(20)]
    drop_and_send(rowdrop, csv_of(poison), neighbours)
    look_until(lambda: rowdrop.backlog.dirty_users() <= {"poison"}, rowdrop, watch, worker)
    assert {user: row.first_name for user, row in rowdrop.rows().items()} == {
        "poison": "Good",
        **dict.fromkeys(neighbours, "Ivan"),
    }
    look_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watch, worker)
    assert worker.ends == [end] * (1 + MOST_ATTEMPTS)  # one batch, then all isolated attempts
    reject = rowdrop.rejects()["poison"]
    assert (reject.key, reject.etag) == ("poison.csv", rowdrop.source.etag("poison.csv"))
    held = rowdrop.rows()["poison"]  # a held row, as with any other reject
    assert (held.first_name, held.img_path) == ("Good", f"{rowdrop.source.bucket}/poison.png")
    assert rowdrop.backlog.dirty_users() == set()
    assert trials.users() == {"poison"}
    if poison == "HANG":
        assert "in deadly" in worker.log.read_text()  # faulthandler logs where it hung

    rowdrop.source.delete("poison.png")  # a mark without a new CSV version costs no worker
    rowdrop.mark("poison")
    look_until(lambda: not rowdrop.backlog.dirty_users(), rowdrop, watch, worker)
    assert rowdrop.rows()["poison"].img_path == ""
    assert len(worker.ends) == 1 + MOST_ATTEMPTS

    rowdrop.drop("poison", csv_of("Fixed"))
    rowdrop.mark("poison")
    look_until(lambda: not rowdrop.backlog.dirty_users(), rowdrop, watch, worker)
    assert rowdrop.rows()["poison"].first_name == "Fixed"
    assert rowdrop.rejects() == {}
    assert trials.users() == set()


def test_another_version_that_kills_too_has_attempts_of_its_own(
    rowdrop: Stepping, watch: Watch, start_worker: StartWorker
) -> None:
    worker = start_worker()
    drop_and_send(rowdrop, csv_of("KILL"), [])
    look_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watch, worker)
    rowdrop.drop("poison", csv_of("KILL", "once more"))
    rowdrop.mark("poison")
    etag = rowdrop.source.etag("poison.csv")
    look_until(lambda: rowdrop.rejects()["poison"].etag == etag, rowdrop, watch, worker)
    assert len(worker.ends) == 1 + 2 * MOST_ATTEMPTS


def test_in_a_page_of_a_sweep_it_stops_nobody_either(
    rowdrop: Stepping, watch: Watch, start_worker: StartWorker
) -> None:
    users = [f"u{number:03d}" for number in range(600)]  # enough to be read by one LIST, in a page
    list(rowdrop.wiring.readers.map(rowdrop.drop, users))
    rowdrop.drop("poison", csv_of("KILL"))
    rowdrop.wiring.tasks.sweep("test")
    worker = start_worker(BULK_QUEUE, "prefork")
    look_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watch, worker)
    look_until(lambda: not rowdrop.backlog.dirty_users(), rowdrop, watch, worker)
    assert set(rowdrop.rows()) == set(users)
    assert worker.ends == []  # only children of the prefork pool died
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"


def test_each_sweep_has_it_tried_once_more_so_that_a_wrong_verdict_does_not_last(
    rowdrop: Stepping, watch: Watch, trials: Trials, start_worker: StartWorker
) -> None:
    worker = start_worker()
    drop_and_send(rowdrop, csv_of("KILL"), [])
    look_until(lambda: is_quarantined(rowdrop, "poison"), rowdrop, watch, worker)
    rowdrop.publisher.write_manifest()
    assert rowdrop.wiring.sweep.run("test") == 1
    rowdrop.wiring.redis.delete(BULK_QUEUE)
    died = len(worker.ends)
    rowdrop.mark("poison")  # an event, so that the worker on the events queue reads it
    look_until(lambda: not rowdrop.backlog.dirty_users(), rowdrop, watch, worker)
    assert len(worker.ends) == died + 1
    assert is_quarantined(rowdrop, "poison")
    # A reader that survives the same file ends its quarantine.
    rowdrop.wiring.sweep.run("test")
    rowdrop.wiring.refresher.refresh_alone("poison")
    rowdrop.publish()
    assert rowdrop.rows()["poison"].first_name == "KILL"
    assert (rowdrop.rejects(), trials.users()) == ({}, set())


# -- single parts ----------------------------------------------------------------------------------
def leave_attempt(rowdrop: Stepping, user: str) -> None:
    """Leave an attempt as a killed worker does, and end it as the watchdog does."""
    trials, attempt = Trials(rowdrop.wiring.redis), new_token()
    assert trials.begin(user, attempt, rowdrop.source.etag(csv_key(user)) or "") == "read"
    trials.over(user, attempt)


def set_apart(rowdrop: Stepping, *users: str) -> None:
    """Leave a read as a killed worker does, and isolate its users as the watchdog does."""
    rowdrop.mark(*users)
    rowdrop.backlog.note(users, "a-reading")
    assert Trials(rowdrop.wiring.redis).set_apart("a-reading", users) == list(users)


def test_a_reading_is_noted_before_it_begins_and_forgotten_at_any_orderly_end(
    rowdrop: Stepping, trials: Trials
) -> None:
    seen: list[dict[str, list[str]]] = []

    def looking(key: str, stored: object) -> ValidCsv | InvalidCsv:
        seen.append(trials.being_read(trials.readings()))
        return judge(key, stored)  # type: ignore[arg-type]

    rowdrop.drop("u")
    rowdrop.mark("u", "v")
    refresher(rowdrop, looking).refresh(["u", "v"])
    assert [*seen[0].values()] == [["u", "v"]]
    assert trials.readings() == []
    rowdrop.wiring.refresher.refresh(["u"])
    rowdrop.wiring.refresher.refresh(["clean"])
    assert trials.readings() == []


def test_a_reading_that_ends_in_whatever_exception_leaves_nothing_behind(rowdrop: Stepping, trials: Trials) -> None:
    wiring, pool = rowdrop.wiring, ThreadPoolExecutor(1)
    pool.shutdown()
    rowdrop.mark("u")
    with pytest.raises(RuntimeError):
        Refresher(wiring.source, wiring.backlog, pool, 4).refresh(["u"])
    assert trials.readings() == []


def refresher(rowdrop: Stepping, judge: Judge) -> Refresher:
    wiring = rowdrop.wiring
    return Refresher(wiring.source, wiring.backlog, wiring.readers, 4, judge=judge)


def test_an_outage_never_counts_as_an_attempt(rowdrop: Stepping, trials: Trials) -> None:
    set_apart(rowdrop, "u")
    bucket, client = rowdrop.source.bucket, rowdrop.wiring.init_client()
    client.remove_bucket(bucket)
    for _ in range(2 * MOST_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            rowdrop.wiring.refresher.refresh_alone("u")
    assert trials.all()["u"].attempts == 0
    assert trials.readings() == []
    client.make_bucket(bucket)
    rowdrop.drop("u")
    for _ in range(MOST_ATTEMPTS - 1):
        leave_attempt(rowdrop, "u")
    rowdrop.wiring.refresher.refresh_alone("u")
    rowdrop.publish()
    assert list(rowdrop.rows()) == ["u"]
    assert trials.users() == set()


def test_an_outage_in_the_middle_of_an_attempt_does_not_count_either(rowdrop: Stepping, trials: Trials) -> None:
    class Gone:
        """A bucket that still answers HEAD, and no GET."""

        def __getattr__(self, name: str) -> object:
            return getattr(rowdrop.source, name)

        def get(self, *_: object, **__: object) -> object:
            raise StoreUnavailable("gone")

    rowdrop.drop("u")
    set_apart(rowdrop, "u")
    wiring = rowdrop.wiring
    reading = Refresher(Gone(), wiring.backlog, wiring.readers, 4)  # type: ignore[arg-type]
    for _ in range(2 * MOST_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            reading.refresh_alone("u")
    assert trials.all()["u"].attempts == 0


def test_while_an_attempt_may_be_under_way_there_is_no_other(rowdrop: Stepping, trials: Trials) -> None:
    rowdrop.drop("u")
    set_apart(rowdrop, "u")
    assert trials.begin("u", "aa", "etag") == "read"
    assert trials.begin("u", "bb", "etag") == "busy"
    rowdrop.wiring.refresher.refresh_alone("u")
    assert rowdrop.backlog.staged_count() == 0


def test_a_reading_that_three_looks_have_seen_sets_its_users_apart(
    rowdrop: Stepping, watch: Watch, trials: Trials
) -> None:
    rowdrop.mark("u", "v")
    rowdrop.backlog.note(["u", "v", "clean"], "a-reading")
    rowdrop.wiring.redis.delete(EVENTS_QUEUE)
    for _ in range(LOOKS_BROKEN_OFF - 1):
        watch.look_for_broken_readings()
    assert trials.users() == set()
    watch.look_for_broken_readings()
    assert trials.users() == {"u", "v"}
    assert trials.readings() == []


def messages(rowdrop: Stepping) -> list[object]:
    """Return the arguments of the messages on the events queue, and empty it."""
    queue = rowdrop.backlog.redis
    found = [json.loads(base64.b64decode(json.loads(raw)["body"]))[0] for raw in queue.lrange(EVENTS_QUEUE, 0, -1)]
    queue.delete(EVENTS_QUEUE)
    return found


def test_among_the_overdue_nobody_is_read_together_with_a_suspect(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.mark("u", "v")
    rowdrop.backlog.note(["u"], "a-reading")
    for _ in range(2):
        watch.look_for_broken_readings()
    watch.enqueue_overdue(time.time() + 60)
    assert messages(rowdrop) == [[["v"]]]
    watch.look_for_broken_readings()
    watch.enqueue_overdue(time.time() + 60)
    assert messages(rowdrop) == [[["v"]]]
    watch.enqueue_alone()
    assert messages(rowdrop) == [["u"]]


def test_an_event_of_a_suspect_is_left_to_the_watch(rowdrop: Stepping) -> None:
    from worker.backlog import FAST, Notice

    set_apart(rowdrop, "u")
    rowdrop.wiring.redis.rpush(FAST, b"1")
    assert rowdrop.backlog.note_events(FAST, [Notice(b"1", ["u", "v"])], time.time()) == ["v"]
    assert rowdrop.backlog.dirty_users() == {"u", "v"}


def test_a_suspect_who_was_read_by_another_is_one_no_more(rowdrop: Stepping, watch: Watch, trials: Trials) -> None:
    rowdrop.drop("u")
    set_apart(rowdrop, "u", "clean")
    for _ in range(MOST_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.wiring.refresher.refresh(["u", "clean"])  # by a message enqueued before the isolation
    rowdrop.publish()
    assert trials.users() == set()
    set_apart(rowdrop, "w")
    rowdrop.wiring.redis.delete("dirty")
    watch.enqueue_alone()
    assert trials.users() == set()


def test_a_verdict_outlives_redis(rowdrop: Stepping, trials: Trials) -> None:
    rowdrop.drop("u")
    set_apart(rowdrop, "u")
    for _ in range(MOST_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.wiring.refresher.refresh_alone("u")
    rowdrop.publish()
    assert is_quarantined(rowdrop, "u")
    rowdrop.wiring.redis.flushall()
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    rowdrop.wiring.rebuild.start(task_id)  # reads every user again, except the quarantined one
    rowdrop.do_bulk_work()
    assert trials.all()["u"].is_guilty
    rowdrop.wiring.refresher.refresh_alone("u")
    rowdrop.publish()
    assert is_quarantined(rowdrop, "u")


def test_worker_check_does_not_read_what_is_quarantined(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    set_apart(rowdrop, "u")
    for _ in range(MOST_ATTEMPTS):
        leave_attempt(rowdrop, "u")
    rowdrop.wiring.refresher.refresh_alone("u")
    rowdrop.publish()
    assert rowdrop.differences() == []
    rowdrop.drop("u", csv_of("Other"))
    assert len(rowdrop.differences()) == 2


def test_a_fault_of_ours_in_one_file_is_a_reject_and_harms_nobody(rowdrop: Stepping) -> None:
    def faulty(key: str, stored: object) -> ValidCsv | InvalidCsv:
        if key == "b.csv":
            raise IndexError(key)
        return judge(key, stored)  # type: ignore[arg-type]

    for user in "abc":
        rowdrop.drop(user)
    rowdrop.mark(*"abc")
    refresher(rowdrop, faulty).refresh([*"abc"])
    rowdrop.publish()
    assert list(rowdrop.rows()) == ["a", "c"]
    assert "IndexError" in rowdrop.rejects()["b"].reason


def test_a_file_for_which_there_is_no_memory_stays_dirty_and_harms_nobody(rowdrop: Stepping) -> None:
    def starving(key: str, stored: object) -> ValidCsv | InvalidCsv:
        if key == "b.csv":
            raise MemoryError
        return judge(key, stored)  # type: ignore[arg-type]

    for user in "abc":
        rowdrop.drop(user)
    rowdrop.mark(*"abc")
    with pytest.raises(StoreUnavailable, match="MemoryError"):
        refresher(rowdrop, starving).refresh([*"abc"])
    rowdrop.publish()
    assert list(rowdrop.rows()) == ["a", "c"]
    assert rowdrop.backlog.dirty_users() == {"b"}
