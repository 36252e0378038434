"""Tests of `worker.healed`: silent repairs are counted, and nothing else. Uses real servers."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from local.servers import RedisServer
from shared import rejects as rejects_csv
from shared.object_store import ObjectInfo, ObjectStore, StoredObject
from shared.published import MANIFEST, REJECTS
from tests.api_process import eventually
from tests.integration.stepping import Stepping, csv_of
from worker.backlog import FAST, MOST_UNEXPLAINED, SAFE
from worker.healed import EVENT_S, Healed
from worker.init import Init
from worker.listener import Listener
from worker.sweep import Sweep


def published(rowdrop: Stepping, *users: str) -> None:
    for user in users:
        rowdrop.drop(user)
    rowdrop.land(*users)
    rowdrop.publisher.write_manifest()
    rowdrop.sweep()


def counted(rowdrop: Stepping) -> int:
    """Count silent repairs without waiting for late events."""
    return Healed(rowdrop.wiring.redis, 0).count("test")


def unexplained(rowdrop: Stepping) -> set[str]:
    return {user.decode() for user in rowdrop.backlog.redis.hkeys("unexplained")}


def test_whoever_changed_without_an_event_is_counted_once_healed(rowdrop: Stepping) -> None:
    published(rowdrop, "same", "changed", "gone", "image", "broken")
    rowdrop.drop("changed", csv_of("New"))
    rowdrop.source.delete("gone.csv")
    rowdrop.source.put("image.png", b"x")
    rowdrop.drop("broken", b"nothing")
    rowdrop.drop("new")
    rowdrop.wiring.sweep.run("test")
    assert counted(rowdrop) == 0  # found, and not repaired yet
    rowdrop.do_bulk_work()
    assert rowdrop.differences() == []
    assert counted(rowdrop) == 5
    assert rowdrop.backlog.counted("lost_and_healed") == 5
    assert counted(rowdrop) == 0
    assert unexplained(rowdrop) == set()


def test_it_is_counted_when_its_event_would_have_come_and_not_before(
    rowdrop: Stepping, caplog: pytest.LogCaptureFixture
) -> None:
    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("Secretname"))
    began = time.time()
    rowdrop.sweep()
    healed = Healed(rowdrop.wiring.redis)
    eventually(lambda: healed.count("by hand"))
    assert time.time() - began > EVENT_S - 1
    assert "silent drift: u and 0 more changed without an event; a sweep (by hand) repaired them" in caplog.text
    assert "Secretname" not in caplog.text


def test_an_event_that_comes_after_all_explains_it(rowdrop: Stepping) -> None:
    published(rowdrop, "u", "v")
    for user in "uv":
        rowdrop.drop(user, csv_of("New"))
    rowdrop.sweep()
    rowdrop.mark("u")  # as the listener does for a late event
    assert counted(rowdrop) == 1
    assert unexplained(rowdrop) == set()


def test_while_an_event_waits_nobody_is_counted(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("New"))
    rowdrop.sweep()
    rowdrop.wiring.redis.rpush(FAST, b"whose?")
    assert counted(rowdrop) == 0
    rowdrop.wiring.redis.delete(FAST)
    assert counted(rowdrop) == 1


def test_events_of_other_tests_do_not_arrive_here(rowdrop: Stepping, minio_redis_server: RedisServer) -> None:
    """The Redis of a test without the mark `minio_events` is not the one that MinIO publishes to."""
    Init(rowdrop.wiring, probe_wait_s=0.1).run()
    with Redis.from_url(minio_redis_server.url) as minio_redis:
        minio_redis.flushall()
        rowdrop.drop("u")
        eventually(lambda: minio_redis.exists(FAST) and minio_redis.exists(SAFE))
    assert rowdrop.wiring.redis.exists(FAST, SAFE) == 0


def test_whoever_is_dirty_already_is_not_counted(rowdrop: Stepping) -> None:
    published(rowdrop, "u", "v")
    for user in "uv":
        rowdrop.drop(user, csv_of("New"))
    rowdrop.mark("u")  # its message may be lost
    rowdrop.refresh("v")  # staged
    rowdrop.sweep()
    assert rowdrop.differences() == []
    assert counted(rowdrop) == 0


def test_a_memo_that_is_behind_is_no_loss(rowdrop: Stepping) -> None:
    published(rowdrop, "u", "v")
    rowdrop.drop("u", csv_of("New"))
    rowdrop.land("u")  # by an event; the manifest is stale until it is written
    assert rowdrop.sweep() == 1
    assert (counted(rowdrop), unexplained(rowdrop)) == (0, set())
    rowdrop.output.delete(MANIFEST)
    assert rowdrop.sweep() == 2
    assert (counted(rowdrop), unexplained(rowdrop)) == (0, set())


def test_with_nothing_published_yet_nothing_can_have_been_lost(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    assert rowdrop.sweep("start") == 1
    assert list(rowdrop.rows()) == ["u"]
    assert counted(rowdrop) == 0


def test_after_a_release_with_other_rules_other_rows_are_no_loss(rowdrop: Stepping) -> None:
    published(rowdrop, "u", "v")
    rowdrop.drop("v", b"broken")
    rowdrop.land("v")
    rowdrop.publisher.write_manifest()
    made_by_other_rules(rowdrop)
    for user in "uv":
        rowdrop.drop(user, csv_of("As today's rules have it"))
    assert rowdrop.sweep() == 2
    assert counted(rowdrop) == 0


def made_by_other_rules(rowdrop: Stepping) -> None:
    """Rewrite rejects and manifest as if another version of the rules had made them."""
    rejects = [replace(reject, rules="0") for reject in rowdrop.rejects().values()]
    rowdrop.output.put(REJECTS, rejects_csv.encode(rejects))
    table = pq.read_table(io.BytesIO(rowdrop.output.get(MANIFEST).body))
    rules = table.schema.field("rules")
    column = pa.array(["0"] * len(table)).cast(rules.type)
    sink = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index("rules"), rules, column), sink)
    rowdrop.output.put(MANIFEST, sink.getvalue())


def test_what_an_emptied_redis_has_forgotten_is_counted(rowdrop: Stepping) -> None:
    published(rowdrop, "u", "v")
    rowdrop.drop("u", csv_of("New"))
    rowdrop.mark("u")
    rowdrop.wiring.redis.flushall()
    rowdrop.sweep()
    assert rowdrop.differences() == []
    assert counted(rowdrop) == 1


def test_no_more_are_remembered_than_there_is_room_for(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    remembered: dict[str, int] = {f"someone-{number}": 0 for number in range(MOST_UNEXPLAINED - 3)}
    rowdrop.wiring.redis.hset("unexplained", mapping=remembered)  # type: ignore[arg-type]
    for number in range(10):
        rowdrop.drop(f"v{number}")
    rowdrop.sweep()
    assert rowdrop.differences() == []
    assert counted(rowdrop) == 3


# -- drops during a sweep --------------------------------------------------------------------------
def test_an_event_that_is_noted_while_the_sweep_compares_explains_it_too(rowdrop: Stepping) -> None:
    class Output:
        """The output bucket. An event marks the user while the sweep reads its last file."""

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401  the bucket's other methods, as they are
            return getattr(rowdrop.output, name)

        def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
            if key == MANIFEST:
                rowdrop.mark("u")
            return rowdrop.output.get(key, if_none_match, most)

    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("New"))
    wiring = rowdrop.wiring
    Sweep(wiring.source, Output(), wiring.backlog, wiring.bulk, wiring.ignored, wiring.server_figures).run("test")
    rowdrop.do_bulk_work()
    assert rowdrop.rows()["u"].first_name == "New"
    assert counted(rowdrop) == 0


class Meanwhile:
    """The source bucket. Runs `happens` before each LIST, so the LIST includes its effects."""

    def __init__(self, source: ObjectStore, happens: Callable[[], None]) -> None:
        self.bucket, self._source, self._happens = source.bucket, source, happens

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  the bucket's other methods, as they are
        return getattr(self._source, name)

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        self._happens()
        yield from self._source.objects(after, folder)


def sweep_meanwhile(rowdrop: Stepping, happens: Callable[[], None]) -> int:
    wiring = rowdrop.wiring
    source = Meanwhile(wiring.source, happens)
    sweep = Sweep(source, wiring.output, wiring.backlog, wiring.bulk, wiring.ignored, wiring.server_figures)
    return sweep.run("test")


@pytest.fixture
def listener(rowdrop: Stepping) -> Listener:
    Init(rowdrop.wiring).run()
    wiring = rowdrop.wiring
    return Listener(wiring.backlog, wiring.tasks, wiring.ignored, wiring.settings.source_bucket, time.time)


@pytest.mark.minio_events
@pytest.mark.parametrize("heard", ["before the marks", "after the marks", "after the publish"])
def test_drops_during_a_sweep_count_nothing(rowdrop: Stepping, listener: Listener, heard: str) -> None:
    published(rowdrop, "a", *(f"m{number}" for number in range(5)))
    users = [f"b{number:04d}" for number in range(1000)]

    def hear_all() -> bool:
        listener.run_once(0.1)
        return int(rowdrop.backlog.redis.zcard("since:event")) > len(users)

    def drop_all() -> None:
        list(rowdrop.wiring.readers.map(rowdrop.drop, users))
        rowdrop.drop("a", csv_of("New"))
        if heard == "before the marks":
            eventually(hear_all, 60)

    assert sweep_meanwhile(rowdrop, drop_all) > 0
    if heard == "after the marks":
        eventually(hear_all, 60)
    rowdrop.do_bulk_work()
    assert rowdrop.differences() == []
    eventually(lambda: listener.run_once(0.1) < 0 or not unexplained(rowdrop), 60)
    assert counted(rowdrop) == 0


def test_who_was_dirty_when_the_list_began_is_not_counted(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("New"))
    rowdrop.refresh("u")

    def published_and_dropped_again() -> None:
        rowdrop.publish()
        rowdrop.source.delete("u.csv")

    rowdrop.drop("v")
    sweep_meanwhile(rowdrop, published_and_dropped_again)
    rowdrop.do_bulk_work()
    assert counted(rowdrop) == 1  # v
