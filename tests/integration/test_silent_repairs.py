"""Silent repairs are counted, and nothing else. Uses real servers.

`worker.jobs.comparison` finds the silent drift, and the publisher counts what it repairs.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from local.servers import RedisServer
from shared.formats import rejects_csv
from shared.formats.object_names import MANIFEST_KEY, REJECTS_KEY
from shared.object_store import ObjectInfo, ObjectStore, StoredObject
from shared.progress.pipeline_status import read_pipeline_status
from shared.redis_keys import DIRTY_SINCE, FAST_EVENTS, SILENT_DRIFT
from tests.api_process import wait_until
from tests.fakes import DelegatingStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.jobs.comparison import EVENT_DELAY_S, MAX_PAUSE_S
from worker.listener import Listener
from worker.state.user_states import MAX_SILENT_DRIFT


def publish_users(rowdrop: RowdropHarness, *users: str) -> None:
    for user in users:
        rowdrop.put_files(user)
    rowdrop.process_users(*users)
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep()


def count_silent_repairs(rowdrop: RowdropHarness) -> int:
    return read_pipeline_status(rowdrop.redis).silent_repairs


def list_drifted_users(rowdrop: RowdropHarness) -> set[str]:
    return {user.decode() for user in rowdrop.redis.smembers(SILENT_DRIFT)}


def test_silent_repairs_count_users_changed_without_event(
    rowdrop: RowdropHarness, caplog: pytest.LogCaptureFixture
) -> None:
    publish_users(rowdrop, "same", "changed", "gone", "image", "broken")
    rowdrop.put_files("changed", make_csv("Secretname"))
    rowdrop.source.delete("gone.csv")
    rowdrop.source.put("image.png", b"x")
    rowdrop.put_files("broken", b"nothing")
    rowdrop.put_files("new")
    rowdrop.sweep.run("test")
    assert list_drifted_users(rowdrop) == {"changed", "gone", "image", "broken", "new"}
    assert count_silent_repairs(rowdrop) == 0  # found, and not repaired yet
    rowdrop.run_bulk_work()
    assert rowdrop.find_differences() == []
    assert count_silent_repairs(rowdrop) == 5
    assert list_drifted_users(rowdrop) == set()
    assert "and 4 more changed without an event; a sweep repaired them" in caplog.text
    assert "Secretname" not in caplog.text
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep()
    assert count_silent_repairs(rowdrop) == 5


def test_silent_repairs_forget_users_that_are_published(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.run_sweep()
    assert count_silent_repairs(rowdrop) == 1
    rowdrop.put_files("u", make_csv("By an event"))
    rowdrop.process_users("u")
    assert count_silent_repairs(rowdrop) == 1


def test_sweep_waits_for_events_before_it_counts(rowdrop: RowdropHarness) -> None:
    """Without drift it does not wait."""
    pauses = list[float]()
    sweep = rowdrop.create_sweep(wait=pauses.append)
    publish_users(rowdrop, "u")
    sweep.run("test")
    assert pauses == []
    rowdrop.put_files("u", make_csv("New"))
    sweep.run("test")
    assert pauses == [EVENT_DELAY_S]


@pytest.mark.parametrize("is_published", [False, True])
def test_silent_repairs_exclude_users_with_late_event(
    rowdrop: RowdropHarness, *, is_published: bool
) -> None:
    """The events of both arrive after the LIST, and that of one user changes its row again."""
    publish_users(rowdrop, "u", "v", "w")
    for user in "uvw":
        rowdrop.put_files(user, make_csv("New"))

    def process_event(_: float) -> None:
        if is_published:
            rowdrop.process_users("u", "v")
            rowdrop.put_files("v", make_csv("Newest"))
        else:
            rowdrop.mark_users("u", "v")

    rowdrop.create_sweep(wait=process_event).run("test")
    assert list_drifted_users(rowdrop) == {"w"}
    rowdrop.mark_users("v")
    rowdrop.run_bulk_work()
    assert count_silent_repairs(rowdrop) == 1


def test_silent_repairs_count_nothing_while_events_wait(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u")
    rowdrop.put_files("u", make_csv("New"))
    pauses = list[float]()
    rowdrop.redis.rpush(FAST_EVENTS, b"whose?")
    rowdrop.create_sweep(wait=pauses.append).run("test")
    assert MAX_PAUSE_S - 0.2 < sum(pauses) <= MAX_PAUSE_S + 0.1
    rowdrop.run_bulk_work()
    assert rowdrop.find_differences() == []
    assert count_silent_repairs(rowdrop) == 0


def test_redis_fixture_receives_no_event_of_other_tests(
    rowdrop: RowdropHarness, minio_redis_server: RedisServer
) -> None:
    """A test without the mark `minio_events` has a Redis that MinIO does not publish to."""
    Initializer(rowdrop.services, probe_timeout_s=0.1).run()
    with Redis.from_url(minio_redis_server.url) as minio_redis:
        minio_redis.flushall()
        rowdrop.put_files("u")
        wait_until(lambda: minio_redis.exists(FAST_EVENTS))
    assert rowdrop.services.clients.redis.exists(FAST_EVENTS) == 0


def test_silent_repairs_exclude_dirty_users(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u", "v")
    for user in "uv":
        rowdrop.put_files(user, make_csv("New"))
    rowdrop.mark_users("u")  # its message may be lost
    rowdrop.read_users("v")  # staged
    rowdrop.run_sweep()
    assert rowdrop.find_differences() == []
    assert count_silent_repairs(rowdrop) == 0


def test_silent_repairs_exclude_stale_manifest(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u", "v")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.process_users("u")  # by an event; the manifest is stale until it is written
    assert rowdrop.run_sweep() == 1
    assert (count_silent_repairs(rowdrop), list_drifted_users(rowdrop)) == (0, set())
    rowdrop.output.delete(MANIFEST_KEY)
    assert rowdrop.run_sweep() == 2
    assert (count_silent_repairs(rowdrop), list_drifted_users(rowdrop)) == (0, set())


def test_silent_repairs_exclude_first_publish(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    assert rowdrop.run_sweep("start") == 1
    assert list(rowdrop.read_rows()) == ["u"]
    assert count_silent_repairs(rowdrop) == 0


def test_silent_repairs_exclude_other_rules_version(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u", "v")
    rowdrop.put_files("v", b"broken")
    rowdrop.process_users("v")
    rowdrop.publisher.write_manifest()
    rewrite_with_other_rules(rowdrop)
    for user in "uv":
        rowdrop.put_files(user, make_csv("As today's rules have it"))
    assert rowdrop.run_sweep() == 2
    assert count_silent_repairs(rowdrop) == 0


def rewrite_with_other_rules(rowdrop: RowdropHarness) -> None:
    """Rewrite rejects and manifest as if another version of the rules had made them."""
    rejects = [replace(reject, rules="0") for reject in rowdrop.read_rejects().values()]
    rowdrop.output.put(REJECTS_KEY, rejects_csv.encode_rejects(rejects))
    table = pq.read_table(io.BytesIO(rowdrop.output.get(MANIFEST_KEY).body))
    rules = table.schema.field("rules")
    column = pa.array(["0"] * len(table)).cast(rules.type)
    sink = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index("rules"), rules, column), sink)
    rowdrop.output.put(MANIFEST_KEY, sink.getvalue())


def test_silent_repairs_include_marks_lost_with_redis(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u", "v")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.mark_users("u")
    rowdrop.services.clients.redis.flushall()
    rowdrop.run_sweep()
    assert rowdrop.find_differences() == []
    assert count_silent_repairs(rowdrop) == 1


def test_silent_repairs_limit_recorded_users(rowdrop: RowdropHarness) -> None:
    rowdrop.state.users.record_silent_drift([f"u{n}" for n in range(MAX_SILENT_DRIFT + 3)])
    assert rowdrop.redis.scard(SILENT_DRIFT) == MAX_SILENT_DRIFT


# -- drops during a sweep --------------------------------------------------------------------------
def test_silent_repairs_exclude_user_marked_during_comparison(rowdrop: RowdropHarness) -> None:
    class Output(DelegatingStore):
        """The output bucket. An event marks the user while the sweep reads its last file."""

        def get(
            self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
        ) -> StoredObject:
            if key == MANIFEST_KEY:
                rowdrop.mark_users("u")
            return rowdrop.output.get(key, if_none_match, max_bytes)

    publish_users(rowdrop, "u")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.create_sweep(output=Output(rowdrop.output)).run("test")
    rowdrop.run_bulk_work()
    assert rowdrop.read_rows()["u"].first_name == "New"
    assert count_silent_repairs(rowdrop) == 0


class SourceWithChanges(DelegatingStore):
    """The source bucket. Runs `change` before each LIST, so the LIST includes its effects."""

    def __init__(self, source: ObjectStore, change: Callable[[], None]) -> None:
        super().__init__(source)
        self._change = change

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        self._change()
        yield from self.inner.list_objects(after, folder, with_source_etags=with_source_etags)


def sweep_during(rowdrop: RowdropHarness, change: Callable[[], None]) -> int:
    return rowdrop.create_sweep(source=SourceWithChanges(rowdrop.source, change)).run("test")


@pytest.fixture
def listener(rowdrop: RowdropHarness) -> Listener:
    Initializer(rowdrop.services).run()
    return rowdrop.create_listener()


@pytest.mark.minio_events
@pytest.mark.parametrize(
    "events_arrive", ["before the marks", "after the marks", "after the publish"]
)
def test_silent_repairs_exclude_drops_during_sweep(
    rowdrop: RowdropHarness, listener: Listener, events_arrive: str
) -> None:
    publish_users(rowdrop, "a", *(f"m{number}" for number in range(5)))
    users = [f"b{number:04d}" for number in range(1000)]

    def process_events() -> bool:
        listener.run_once(0.1)
        return int(rowdrop.redis.zcard(DIRTY_SINCE["event"])) > len(users)

    def drop_all() -> None:
        list(rowdrop.services.clients.read_pool.map(rowdrop.put_files, users))
        rowdrop.put_files("a", make_csv("New"))
        if events_arrive == "before the marks":
            wait_until(process_events, 60)

    assert sweep_during(rowdrop, drop_all) > 0
    if events_arrive == "after the marks":
        wait_until(process_events, 60)
    rowdrop.run_bulk_work()
    assert rowdrop.find_differences() == []
    assert count_silent_repairs(rowdrop) == 0


def test_silent_repairs_exclude_user_dirty_before_list(rowdrop: RowdropHarness) -> None:
    publish_users(rowdrop, "u")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.read_users("u")

    def publish_and_delete() -> None:
        rowdrop.publish_pending()
        rowdrop.source.delete("u.csv")

    rowdrop.put_files("v")
    sweep_during(rowdrop, publish_and_delete)
    rowdrop.run_bulk_work()
    assert count_silent_repairs(rowdrop) == 1  # v
