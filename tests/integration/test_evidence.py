"""Tests of `worker.evidence` on real servers: loss signals are counted and request a sweep."""

import io
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from minio import Minio
from minio.notificationconfig import NotificationConfig

from local.ports import free_port
from local.servers import MinioServer, RedisServer
from shared.published import OUTPUT
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.api_process import eventually
from tests.conftest import PASSWORD, USER
from tests.integration.stepping import Stepping, csv_of
from worker.backlog import EVIDENCE, FAST, LeaseLost, new_token
from worker.evidence import LOOKS_STALLED, Watch
from worker.init import Init
from worker.notifications import Notifications
from worker.server_figures import ServerFigures


def new_watch(rowdrop: Stepping) -> Watch:
    wiring = rowdrop.wiring
    return Watch(
        wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, wiring.server_figures, wiring.settings
    )  # fmt: skip


@pytest.fixture
def watch(rowdrop: Stepping) -> Watch:
    return new_watch(rowdrop)


def counts(rowdrop: Stepping) -> dict[str, int]:
    counters = rowdrop.backlog.redis.hgetall("counters")
    names = {name.decode(): int(count) for name, count in counters.items() if name.startswith(b"evidence:")}
    return {name.removeprefix("evidence:"): count for name, count in names.items()}


def sweeps_asked_for(rowdrop: Stepping) -> int:
    return int(rowdrop.wiring.redis.llen(BULK_QUEUE))


def settle(rowdrop: Stepping, watch: Watch) -> None:
    """Reach the state after a start: swept once, and nothing is out of sync."""
    rowdrop.sweep()
    watch.tick()
    assert sweeps_asked_for(rowdrop) == 0


def last_cause(rowdrop: Stepping) -> str:
    return str(rowdrop.backlog.redis.hget("sweep", "last_cause").decode())


# -- signals of Rowdrop's own parts ----------------------------------------------------------------
@pytest.mark.parametrize("kind", EVIDENCE)
def test_each_kind_leads_to_one_sweep_which_names_it(
    rowdrop: Stepping, watch: Watch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    settle(rowdrop, watch)
    for _ in range(3):  # a repeated signal
        rowdrop.backlog.add_evidence(kind)
        watch.tick()
    assert counts(rowdrop) == {kind: 1}
    assert sweeps_asked_for(rowdrop) == 1
    assert [record.getMessage() for record in caplog.records].count(
        f"loss signal {kind}: {EVIDENCE[kind]}; a sweep will reconcile all users"
    ) == 1
    rowdrop.sweep("test")
    assert last_cause(rowdrop) == kind
    watch.tick()
    assert sweeps_asked_for(rowdrop) == 0
    assert counts(rowdrop) == {kind: 1}


def test_two_kinds_at_once_are_two_counts_and_one_sweep(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.backlog.add_evidence("files_changed")
    rowdrop.backlog.add_evidence("events_failed")
    watch.tick()
    assert sweeps_asked_for(rowdrop) == 1
    rowdrop.sweep()
    assert last_cause(rowdrop) == "events_failed, files_changed"


def test_evidence_during_a_sweep_is_what_the_next_one_is_for(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.backlog.add_evidence("files_changed")
    assert rowdrop.backlog.begin_sweep("one") == {"files_changed"}
    rowdrop.backlog.add_evidence("files_changed")
    assert not rowdrop.backlog.commit_sweep("one", None, (None, None), "run", {"last_at": 1})
    assert counts(rowdrop) == {"files_changed": 2}
    assert rowdrop.backlog.begin_sweep("two") == {"files_changed"}
    assert rowdrop.backlog.commit_sweep("two", None, (None, None), "run", {"last_at": 1})
    assert rowdrop.backlog.evidence() == set()


def test_what_a_broken_off_sweep_was_for_is_not_forgotten(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.backlog.add_evidence("events_skipped")
    rowdrop.backlog.begin_sweep("killed")
    watch.tick()
    assert sweeps_asked_for(rowdrop) == 1
    assert rowdrop.wiring.redis.get("sweep:queued") == b"events_skipped"
    rowdrop.sweep()
    assert last_cause(rowdrop) == "events_skipped"


def test_the_first_sweep_of_all_is_for_nothing_but_the_start(rowdrop: Stepping, watch: Watch) -> None:
    watch.tick()
    assert sweeps_asked_for(rowdrop) == 1
    rowdrop.sweep("start")
    assert last_cause(rowdrop) == "start"
    assert counts(rowdrop) == {}


def test_redis_that_was_emptied_is_known_as_that(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    for _ in range(2):
        rowdrop.wiring.redis.flushall()
        watch.tick()
        assert sweeps_asked_for(rowdrop) == 1
        assert counts(rowdrop) == {"redis_emptied": 1}
        rowdrop.sweep()
        assert last_cause(rowdrop) == "redis_emptied"
        watch.tick()


def test_redis_that_was_emptied_in_the_middle_of_a_sweep_is_too(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.backlog.begin_sweep("one")
    watch.tick()
    rowdrop.wiring.redis.flushall()
    assert not rowdrop.backlog.commit_sweep("one", None, (None, None), "run", {"last_at": 1})
    watch.tick()
    assert counts(rowdrop) == {"redis_emptied": 1}


def test_another_run_of_redis_is_known_as_that(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.wiring.redis.set("epoch", "ok:another-run")
    watch.tick()
    assert (counts(rowdrop), sweeps_asked_for(rowdrop)) == ({"redis_restarted": 1}, 1)


def test_published_files_edited_by_hand_are_known_as_that(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    rowdrop.output.delete(OUTPUT)
    for _ in range(4):
        watch.tick()
    assert (counts(rowdrop), sweeps_asked_for(rowdrop)) == ({"files_changed": 1}, 1)


def test_a_publisher_that_was_replaced_is_known_as_that(rowdrop: Stepping, watch: Watch) -> None:
    settle(rowdrop, watch)
    token = new_token()
    begun = rowdrop.backlog.begin(token)
    assert begun is not None
    rowdrop.wiring.redis.set("writer", "another")
    with pytest.raises(LeaseLost):
        rowdrop.backlog.clean(token, "e", "r", 0, begun.batch, time.time())
    watch.tick()
    assert (counts(rowdrop), sweeps_asked_for(rowdrop)) == ({"publisher_replaced": 1}, 1)


# -- signals of MinIO ------------------------------------------------------------------------------
class Site:
    """A MinIO and a Redis for one test, initialised by `worker.init`."""

    def __init__(self, minio: MinioServer, redis: RedisServer) -> None:
        self.minio, self.redis = minio, redis
        self.rowdrop = Stepping(Settings(minio.endpoint, USER, PASSWORD, redis.url))
        Init(self.rowdrop.wiring).run()
        self.watch = new_watch(self.rowdrop)

    def put(self, key: str) -> None:
        client = Minio(self.minio.endpoint.removeprefix("http://"), USER, PASSWORD, secure=False)
        client.put_object("src-data", key, io.BytesIO(csv_of()), len(csv_of()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return MinIO's data folder. A test class may override it to add files before the start."""
    return tmp_path / "minio"


@pytest.fixture
def site(folder: Path, tmp_path: Path, minio_server: MinioServer) -> Iterator[Site]:
    redis = RedisServer(tmp_path / "redis", free_port(), "a-password")
    with redis:
        ports = free_port(), free_port()
        minio = MinioServer(folder, *ports, USER, PASSWORD, redis.port, redis.password, minio_server.binary)
        with minio:
            site = Site(minio, redis)
            yield site
            site.rowdrop.close()


def test_a_minio_that_was_killed_is_known_as_that(site: Site) -> None:
    settle(site.rowdrop, site.watch)
    site.minio.kill()
    site.watch.look_for_broken_readings()
    site.minio.start()
    site.minio.wait_ready()
    site.watch.tick()
    assert (counts(site.rowdrop), sweeps_asked_for(site.rowdrop)) == ({"minio_restarted": 1}, 1)


def test_events_that_minio_failed_to_send_are_known_as_that(site: Site) -> None:
    settle(site.rowdrop, site.watch)
    site.redis.kill()
    site.put("u.csv")
    site.redis.start()
    figures, known = site.rowdrop.wiring.server_figures, site.rowdrop.backlog.redis.hget("sweep", "figures")
    eventually(lambda: figures.read() != known.decode())  # MinIO's metrics are up to 10 s old
    site.watch.tick()
    assert counts(site.rowdrop) == {"redis_restarted": 1, "events_failed": 1}
    assert sweeps_asked_for(site.rowdrop) == 1


class TestASafeQueueThatDoesNotGetOn:
    """A durable queue that is blocked by an event that MinIO cannot decode."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Put a file that MinIO cannot decode at the head of its on-disk queue."""
        folder = tmp_path / "minio"
        queue = folder / "queue" / "minio-redis-SAFE"
        queue.mkdir(parents=True)
        (queue / "0b5a4f5e-aaaa-4b4b-8c8c-000000000000.event").write_bytes(b'{"EventName":"s3:Obj')
        return folder

    def test_is_noticed_once_and_stood_in_for_by_sweeps(self, site: Site) -> None:
        redis, watch = site.rowdrop.wiring.redis, site.watch
        settle(site.rowdrop, watch)
        for number in range(3):
            site.put(f"{number}.csv")
        figures = ServerFigures(site.minio.endpoint, "")
        eventually(lambda: figures.read() and figures.safe_queue >= 3)
        for _ in range(LOOKS_STALLED + 2):
            watch.tick()
        assert (counts(site.rowdrop), sweeps_asked_for(site.rowdrop)) == ({"safe_queue_stalled": 1}, 1)
        assert int(redis.get("safe_queue") or 0) >= 3  # for /health/ready
        site.rowdrop.sweep()
        watch.sweep_if_due(time.time() + 301)
        assert sweeps_asked_for(site.rowdrop) == 1


def test_rules_that_were_taken_away_are_added_again_and_looked_into(site: Site) -> None:
    redis, wiring = site.rowdrop.wiring.redis, site.rowdrop.wiring
    watch = Watch(
        wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, wiring.server_figures, wiring.settings,
        notifications=wiring.notifications,
    )  # fmt: skip
    settle(site.rowdrop, watch)
    wiring.init_client().set_bucket_notification("src-data", NotificationConfig())
    site.put("unheard.csv")
    for _ in range(2):
        watch.tick()
    assert (counts(site.rowdrop)["rules_missing"], sweeps_asked_for(site.rowdrop)) == (1, 1)
    redis.delete(FAST)
    site.put("heard.csv")
    eventually(lambda: redis.llen(FAST))


def test_a_bucket_that_is_away_has_no_rules_that_could_be_missing(site: Site) -> None:
    wiring = site.rowdrop.wiring
    settings = replace(wiring.settings, source_bucket="no-such-bucket")
    watch = Watch(
        wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, wiring.server_figures, settings,
        notifications=Notifications(wiring.init_client(), "no-such-bucket"),
    )  # fmt: skip
    settle(site.rowdrop, watch)
    watch.tick()
    assert counts(site.rowdrop) == {}


def test_a_safe_queue_that_gets_on_is_no_evidence_however_long_it_is(rowdrop: Stepping) -> None:
    class Figures(ServerFigures):
        """Metrics with a constant number of copies in the queue."""

        safe_queue = 500

        def read(self) -> str | None:
            return "[]"

    wiring = rowdrop.wiring
    watch = Watch(
        wiring.backlog, wiring.output, wiring.tasks, wiring.rebuilds, Figures("http://nowhere", ""), wiring.settings
    )
    for _ in range(LOOKS_STALLED + 2):
        watch.look_for_evidence()
        wiring.redis.rpush("events:safe", b"1")
        rowdrop.backlog.note_events("events:safe", [], time.time())
        wiring.redis.hincrby("counters", "safe_events", 1)
    assert counts(rowdrop) == {}
    for _ in range(LOOKS_STALLED):
        watch.look_for_evidence()
    assert counts(rowdrop) == {"safe_queue_stalled": 1}


def test_safe_copies_that_come_are_counted(rowdrop: Stepping) -> None:
    from worker.backlog import SAFE, Notice

    for source in (FAST, SAFE):
        rowdrop.wiring.redis.rpush(source, b"1", b"2")
        rowdrop.backlog.note_events(source, [Notice(b"1", ["u"]), Notice(b"2", (), "why")], time.time())
    assert rowdrop.backlog.counted("safe_events") == 2


def test_evidence_is_logged_without_any_name(rowdrop: Stepping, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rowdrop.drop("u", csv_of("Secretname"))
    rowdrop.sweep()
    rowdrop.backlog.add_evidence("files_changed")
    assert "Secretname" not in caplog.text
