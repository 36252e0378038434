"""POST /data and /tasks on a real Redis; the test acts in place of the workers."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from falcon.testing import Result
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.snapshot.process_registry import ProcessRegistry
from api.snapshot.view import View
from local.servers import RedisServer
from shared.formats.records import Reject
from shared.formats.source_keys import make_bundle_id
from shared.progress.rebuilds import MAX_REBUILD_RECORDS, Rebuilds
from shared.progress.sweep_record import MAX_SWEEP_HISTORY, FinishedSweep, SweepRecord
from shared.progress.unpacks import Unpacks
from shared.redis_keys import (
    DIRTY_SINCE,
    PUBLISH_DONE_CHANNEL,
    REBUILD_IDS,
    REBUILD_PREFIX,
)
from shared.task_queue import BULK_QUEUE, TaskQueue, create_celery
from tests.api_parts import ApiClient, make_dependencies
from tests.api_process import wait_until
from worker.services.state_parts import build_state


class ApiWithRebuilds:
    """The application, its queue, and a second registered API process that the test controls."""

    def __init__(self, redis: "Redis", url: str) -> None:
        self.redis = redis
        self.rebuilds = Rebuilds(redis)
        self._celery = create_celery(url)
        self.other = ProcessRegistry(redis)
        self.record_poll()
        self.view = View()
        parts = make_dependencies(redis, lambda: self.view, queue=TaskQueue(self._celery))
        app = create_app(parts, CrossSiteMiddleware(), AuthMiddleware(AccessRules()))
        self.client = ApiClient(app, headers={"Host": "localhost"})
        self._threads = ThreadPoolExecutor(4)

    def close(self) -> None:
        self._threads.shutdown()
        self._celery.close()

    def record_poll(self) -> float:
        """Record that the other process has just completed a check of output.csv."""
        return self.other.send_heartbeat(self.other.read_clock())

    def post(self, wait: int | None = None) -> Result:
        return self.client.simulate_post("/data", params={} if wait is None else {"wait": wait})

    def post_in_thread(self, wait: int) -> "Future[Result]":
        return self._threads.submit(self.post, wait)

    def count_messages(self) -> int:
        return int(self.redis.llen(BULK_QUEUE))

    def wait_for_queued_rebuild(self) -> str:
        """Return the ID of the queued rebuild, as soon as there is one."""
        wait_until(self.rebuilds.get_queued_id)
        return self.rebuilds.get_queued_id() or ""

    def finish_rebuild(self, task_id: str) -> None:
        self.rebuilds.start(task_id, time.time())
        self.rebuilds.set_total(task_id, 0)
        self.rebuilds.mark_enqueued(task_id)
        self.rebuilds.finish_if_done(time.time())


@pytest.fixture
def api(redis: "Redis", redis_server: RedisServer) -> Iterator[ApiWithRebuilds]:
    api = ApiWithRebuilds(redis, redis_server.url)
    yield api
    api.close()


def test_post_data_queues_rebuild(api: ApiWithRebuilds) -> None:
    result = api.post()
    task_id = result.json["task_id"]
    assert (result.status_code, result.json["status"]) == (202, "queued")
    assert result.headers["location"] == f"/tasks/{task_id}"
    assert api.count_messages() == 1


def test_post_data_returns_id_of_queued_rebuild(api: ApiWithRebuilds) -> None:
    assert api.post().json == api.post().json
    assert api.count_messages() == 1


def test_post_data_queues_at_most_one_behind_running_rebuild(api: ApiWithRebuilds) -> None:
    first = api.post().json["task_id"]
    api.rebuilds.start(first, time.time())
    second = api.post().json["task_id"]
    third = api.post().json["task_id"]
    assert first != second == third
    assert api.count_messages() == 2


def test_task_route_reports_progress(api: ApiWithRebuilds) -> None:
    location = api.post().headers["location"]
    task_id = location.removeprefix("/tasks/")
    assert api.client.simulate_get(location).json["state"] == "queued"
    api.rebuilds.start(task_id, time.time())
    api.rebuilds.set_total(task_id, 1500)
    api.rebuilds.mark_enqueued(task_id)
    api.redis.zadd(DIRTY_SINCE["rebuild"], {f"u{number}": 1.0 for number in range(1000)})
    task = api.client.simulate_get(location).json
    assert (task["state"], task["finished_at"]) == ("running", None)
    assert (task["done"], task["total"]) == (500, 1500)
    api.redis.delete(DIRTY_SINCE["rebuild"])
    api.rebuilds.finish_if_done(time.time())
    task = api.client.simulate_get(location + "/").json
    assert (task["state"], task["done"], task["total"]) == ("done", 1500, 1500)
    assert task["queued_at"] <= task["started_at"] <= task["finished_at"]


def test_task_route_unknown_id_is_404(api: ApiWithRebuilds) -> None:
    result = api.client.simulate_get("/tasks/nobody")
    assert (result.status_code, result.json["type"]) == (404, "/docs#not-found")
    assert "There is no task" in result.json["detail"]


def test_post_data_with_wait_answers_after_all_processes_polled(api: ApiWithRebuilds) -> None:
    messages: Any = api.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with messages:
        messages.subscribe(PUBLISH_DONE_CHANNEL)
        messages.get_message(timeout=1)
        answer = api.post_in_thread(30)
        api.finish_rebuild(api.wait_for_queued_rebuild())
        assert messages.get_message(timeout=5)
        assert not answer.done()  # the other process has not completed a check since
        api.record_poll()
        result = answer.result(5)
    assert (result.status_code, result.json["status"], result.json["total"]) == (200, "updated", 0)


def test_post_data_with_wait_times_out_as_202(api: ApiWithRebuilds) -> None:
    result = api.post(wait=1)
    assert (result.status_code, result.json["status"]) == (202, "queued")


def test_post_data_with_wait_times_out_for_stale_process(api: ApiWithRebuilds) -> None:
    answer = api.post_in_thread(1)
    api.finish_rebuild(api.wait_for_queued_rebuild())
    result = answer.result(5)
    assert (result.status_code, result.json["status"]) == (202, "done")
    assert "not every API process serves" in result.json["message"]


def test_post_data_with_wait_reports_failed_rebuild_as_500(api: ApiWithRebuilds) -> None:
    answer = api.post_in_thread(30)
    task_id = api.wait_for_queued_rebuild()
    api.rebuilds.start(task_id, time.time())
    api.rebuilds.fail(task_id, "src-data: access denied", time.time())
    result = answer.result(5)
    assert (result.status_code, result.json["type"]) == (500, "/docs#rebuild-failed")
    assert result.json["task_id"] == task_id
    assert "src-data: access denied" in result.json["detail"]


def test_post_data_with_wait_reports_lost_rebuild_as_503(api: ApiWithRebuilds) -> None:
    answer = api.post_in_thread(30)
    api.wait_for_queued_rebuild()
    api.redis.flushall()
    assert answer.result(5).status_code == 503


def test_post_data_limits_waiting_requests_per_process(api: ApiWithRebuilds) -> None:
    answers = [api.post_in_thread(30) for _ in range(4)]
    wait_until(lambda: sum(answer.done() for answer in answers) == 2)
    task_id = api.wait_for_queued_rebuild()
    for result in (answer.result() for answer in answers if answer.done()):
        assert (result.status_code, result.json["status"]) == (202, "queued")
        assert result.json["task_id"] == task_id
        assert "poll Location" in result.json["message"]
    api.finish_rebuild(task_id)
    wait_until(lambda: api.record_poll() and all(answer.done() for answer in answers))
    assert sorted(answer.result().status_code for answer in answers) == [200, 200, 202, 202]


def test_tasks_route_lists_ended_rebuilds_newest_first(api: ApiWithRebuilds) -> None:
    task_ids = []
    for _ in range(3):
        task_ids.append(api.post().json["task_id"])
        api.finish_rebuild(task_ids[-1])
    failed = api.post().json["task_id"]
    api.rebuilds.start(failed, time.time())
    api.rebuilds.fail(failed, "src-data: access denied", time.time())
    queued = api.post().json["task_id"]
    api.redis.delete(REBUILD_PREFIX + task_ids[0])  # expired
    tasks = api.client.simulate_get("/tasks").json
    assert [task["task_id"] for task in tasks] == [queued, failed, *task_ids[:0:-1]]
    assert [task["state"] for task in tasks] == ["queued", "failed", "done", "done"]
    assert tasks[1]["error"] == "src-data: access denied"


def test_tasks_route_lists_at_most_fifty_rebuilds(api: ApiWithRebuilds) -> None:
    for number in range(MAX_REBUILD_RECORDS + 5):
        task_id, _ = api.rebuilds.request(number)
        api.finish_rebuild(task_id)
    tasks = api.client.simulate_get("/tasks").json
    assert len(tasks) == api.redis.zcard(REBUILD_IDS) == MAX_REBUILD_RECORDS
    assert tasks[0]["task_id"] == task_id


def test_tasks_route_lists_sweeps_with_their_causes(api: ApiWithRebuilds) -> None:
    sweeps = SweepRecord(api.redis)
    unpacks = Unpacks(api.redis)
    unpacks.begin_attempt("before", "u.zip", 400.0)
    for start in range(500, 500 + MAX_SWEEP_HISTORY + 5):
        sweeps.add_to_history(FinishedSweep(start, start + 2.5, "redis_emptied", 70_000, 3))
    unpacks.begin_attempt("after", "u.zip", 600.0)
    tasks = api.client.simulate_get("/tasks").json
    assert len(tasks) == MAX_SWEEP_HISTORY + 2
    assert [task.get("task_id") for task in tasks if "task_id" in task] == ["after", "before"]
    assert tasks[1] == {
        "state": "done",
        "cause": "redis_emptied",
        "objects": 70_000,
        "marked": 3,
        "started_at": "1970-01-01T00:09:14Z",
        "finished_at": "1970-01-01T00:09:16.500Z",
    }


def test_tasks_route_lists_open_rebuilds_and_recent_bundles(
    api: ApiWithRebuilds, redis: "Redis"
) -> None:
    assert api.client.simulate_get("/tasks").json == []
    unpacks = Unpacks(redis)
    now = time.time()
    for number, bundle in enumerate(("old.zip", "new.zip")):
        unpacks.begin_attempt(f"id-{number}", bundle, now + number)
    unpacks.set_final_state("id-0", "rejected", now, "it is encrypted")
    build_state(redis).users.mark(
        [make_bundle_id("next.zip"), make_bundle_id("new.zip")], "event", now
    )
    task_id = api.post().json["task_id"]
    tasks = api.client.simulate_get("/tasks").json
    assert tasks.pop(1) == {"bundle": "next.zip", "state": "waiting"}
    assert [task["task_id"] for task in tasks] == [task_id, "id-1", "id-0"]
    assert tasks[0] == api.client.simulate_get(f"/tasks/{task_id}").json
    assert tasks[2] == api.client.simulate_get("/tasks/id-0").json
    assert (tasks[1]["bundle"], tasks[1]["state"]) == ("new.zip", "unpacking")
    assert "error" not in tasks[1]
    assert (tasks[2]["state"], tasks[2]["error"]) == ("rejected", "it is encrypted")


def test_tasks_route_counts_rejects_of_visible_version(
    api: ApiWithRebuilds, redis: "Redis"
) -> None:
    """A user with a rejected CSV counts as published: its result is."""
    unpacks = Unpacks(redis)
    for number, bundle in enumerate(("u.zip", "u.zip", "v.zip", "w.zip"), 1):
        unpacks.begin_attempt(str(number), bundle, float(number))
    for task_id in ("1", "2", "3"):
        unpacks.set_publishing(task_id, 3, 0, 10.0)
    own = {"v.zip#8": Reject("v.zip#8.csv", "v.zip#8", "why", 1, 0, "e")}  # the key of a user
    members = {user: Reject(f"u.zip#a/{user}.csv", user, "why", 1, 0, "e") for user in "67"}
    api.view = View(rejects={**own, **members})
    tasks = api.client.simulate_get("/tasks").json
    assert [(task["task_id"], task["rejected"]) for task in tasks] == [
        ("4", None),  # not visible yet
        ("3", 0),
        ("2", 2),
        ("1", None),  # replaced
    ]
    assert [task["published"] for task in tasks] == [0, 3, 3, 3]
    assert [api.client.simulate_get(f"/tasks/{number}").json["rejected"] for number in "123"] == [
        None,
        2,
        0,
    ]


@pytest.mark.parametrize(("is_public", "may_see_contents"), [(False, True), (True, False)])
def test_tasks_route_hides_ignored_members_from_the_public(
    redis: "Redis", is_public: bool, may_see_contents: bool
) -> None:
    """Paths in an archive may be of another system, as lines of a CSV may be."""
    unpacks = Unpacks(redis)
    unpacks.begin_attempt("id", "u.zip", 1.0)
    unpacks.set_ignored_members("id", [(7, "secret-project/1.CSV", "rename it to 1.csv")])
    unpacks.set_publishing("id", 0, 1, 2.0)
    host = "rowdrop.example.org" if is_public else "localhost"
    rules = AccessRules(public_read=is_public, allowed_hosts=(host,) if is_public else ())
    middleware = CrossSiteMiddleware(rules.allowed_hosts), AuthMiddleware(rules)
    client = ApiClient(create_app(make_dependencies(redis), *middleware), headers={"Host": host})
    (task,) = client.simulate_get("/tasks").json
    assert task == client.simulate_get("/tasks/id").json
    assert (task["ignored"], task["users"]) == (1, 0)
    assert task["message"] == "no file in this bundle is a user's: it makes no rows"
    expected = [{"member": 7, "path": "secret-project/1.CSV", "reason": "rename it to 1.csv"}]
    assert task.get("ignored_members") == (expected if may_see_contents else None)
