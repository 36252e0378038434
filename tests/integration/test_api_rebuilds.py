"""POST /data and /tasks on a real Redis; the test acts in place of the workers."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from redis import Redis

from api.access import AccessRules
from api.app import create_app
from api.browsers import BrowserGuard
from api.guard import AccessGuard
from api.presence import Presence
from local.servers import RedisServer
from shared.keys import bundle_id
from shared.rebuilds import Rebuilds
from shared.task_queue import BULK_QUEUE, TaskQueue, create_celery
from shared.unpacks import Unpacks
from tests.api_parts import api_parts
from tests.api_process import eventually
from worker.backlog import Backlog


class Office:
    """The application, its queue, and a second registered API process that the test controls."""

    def __init__(self, redis: "Redis", url: str) -> None:
        self.redis, self.rebuilds = redis, Rebuilds(redis)
        self._celery = create_celery(url)
        self.other = Presence(redis)
        self.look()
        parts = api_parts(redis, queue=TaskQueue(self._celery))
        app = create_app(parts, BrowserGuard(), AccessGuard(AccessRules()))
        self.client = TestClient(app, headers={"Host": "localhost"})
        self._threads = ThreadPoolExecutor(4)

    def close(self) -> None:
        self._threads.shutdown()
        self._celery.close()

    def look(self) -> float:
        """Record that the other process has just completed a check of output.csv."""
        return self.other.sign(self.other.now())

    def post(self, wait: int | None = None) -> Result:
        return self.client.simulate_post("/data", params={} if wait is None else {"wait": wait})

    def post_meanwhile(self, wait: int) -> "Future[Result]":
        return self._threads.submit(self.post, wait)

    def queued(self) -> int:
        return int(self.redis.llen(BULK_QUEUE))

    def waiting(self) -> str:
        """Return the ID of the queued rebuild, as soon as there is one."""
        eventually(self.rebuilds.queued)
        return self.rebuilds.queued() or ""

    def finish(self, task_id: str) -> None:
        self.rebuilds.start(task_id, time.time())
        self.rebuilds.set_total(task_id, 0)
        self.rebuilds.set_named(task_id)
        self.rebuilds.finish(time.time())


@pytest.fixture
def office(redis: "Redis", redis_server: RedisServer) -> Iterator[Office]:
    office = Office(redis, redis_server.url)
    yield office
    office.close()


def test_a_post_is_accepted_and_queued(office: Office) -> None:
    result = office.post()
    task_id = result.json["task_id"]
    assert (result.status_code, result.json["status"]) == (202, "queued")
    assert result.headers["location"] == f"/tasks/{task_id}"
    assert office.queued() == 1


def test_while_one_is_queued_its_id_is_given_and_no_second_is_queued(office: Office) -> None:
    assert office.post().json == office.post().json
    assert office.queued() == 1


def test_while_one_runs_one_more_is_queued_and_never_a_third(office: Office) -> None:
    first = office.post().json["task_id"]
    office.rebuilds.start(first, time.time())
    second, third = office.post().json["task_id"], office.post().json["task_id"]
    assert first != second == third
    assert office.queued() == 2


def test_a_task_tells_how_far_it_is(office: Office) -> None:
    location = office.post().headers["location"]
    task_id = location.removeprefix("/tasks/")
    assert office.client.simulate_get(location).json["state"] == "queued"
    office.rebuilds.start(task_id, time.time())
    office.rebuilds.set_total(task_id, 1500)
    office.rebuilds.set_named(task_id)
    office.redis.zadd("since:rebuild", {f"u{number}": 1.0 for number in range(1000)})
    task = office.client.simulate_get(location).json
    assert (task["state"], task["done"], task["total"], task["finished_at"]) == ("running", 500, 1500, None)
    office.redis.delete("since:rebuild")
    office.rebuilds.finish(time.time())
    task = office.client.simulate_get(location + "/").json
    assert (task["state"], task["done"], task["total"]) == ("done", 1500, 1500)
    assert task["queued_at"] <= task["started_at"] <= task["finished_at"]


def test_a_task_nobody_knows_is_a_404(office: Office) -> None:
    result = office.client.simulate_get("/tasks/nobody")
    assert (result.status_code, result.json["title"]) == (404, "No such task")


def test_a_waiting_post_has_every_process_look_and_answers_when_all_have(office: Office) -> None:
    messages: Any = office.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with messages:
        messages.subscribe("published")
        messages.get_message(timeout=1)
        answer = office.post_meanwhile(30)
        office.finish(office.waiting())
        assert messages.get_message(timeout=5)
        assert not answer.done()  # the other process has not completed a check since
        office.look()
        result = answer.result(5)
    assert (result.status_code, result.json["status"], result.json["total"]) == (200, "updated", 0)


def test_a_wait_that_runs_out_is_a_202_with_the_state(office: Office) -> None:
    result = office.post(wait=1)
    assert (result.status_code, result.json["status"]) == (202, "queued")


def test_a_wait_for_a_process_that_shows_nothing_runs_out_too(office: Office) -> None:
    answer = office.post_meanwhile(1)
    office.finish(office.waiting())
    result = answer.result(5)
    assert (result.status_code, result.json["status"]) == (202, "done")
    assert "not every API process serves" in result.json["message"]


def test_a_failed_rebuild_is_a_500_with_the_reason(office: Office) -> None:
    answer = office.post_meanwhile(30)
    task_id = office.waiting()
    office.rebuilds.start(task_id, time.time())
    office.rebuilds.fail(task_id, "src-data: access denied", time.time())
    result = answer.result(5)
    assert (result.status_code, result.json["type"], result.json["task_id"]) == (500, "/docs#rebuild-failed", task_id)
    assert "src-data: access denied" in result.json["detail"]


def test_a_rebuild_that_is_lost_while_waited_for_is_a_503(office: Office) -> None:
    answer = office.post_meanwhile(30)
    office.waiting()
    office.redis.flushall()
    assert answer.result(5).status_code == 503


def test_more_than_two_in_a_process_do_not_wait(office: Office) -> None:
    answers = [office.post_meanwhile(30) for _ in range(4)]
    eventually(lambda: sum(answer.done() for answer in answers) == 2)
    task_id = office.waiting()
    for result in (answer.result() for answer in answers if answer.done()):
        assert (result.status_code, result.json["status"], result.json["task_id"]) == (202, "queued", task_id)
        assert "poll Location" in result.json["message"]
    office.finish(task_id)
    eventually(lambda: office.look() and all(answer.done() for answer in answers))
    assert sorted(answer.result().status_code for answer in answers) == [200, 200, 202, 202]


def test_tasks_are_what_is_not_done_and_the_bundles_of_late(office: Office, redis: "Redis") -> None:
    assert office.client.simulate_get("/tasks").json == []
    unpacks, now = Unpacks(redis), time.time()
    for number, bundle in enumerate(("old.zip", "new.zip")):
        unpacks.begin(f"id-{number}", bundle, now + number)
    unpacks.close("id-0", "rejected", now, "it is encrypted")
    Backlog(redis).mark([bundle_id("next.zip"), bundle_id("new.zip")], "event", now)
    task_id = office.post().json["task_id"]
    tasks = office.client.simulate_get("/tasks").json
    assert tasks.pop(1) == {"bundle": "next.zip", "state": "waiting"}
    assert [task["task_id"] for task in tasks] == [task_id, "id-1", "id-0"]
    assert tasks[0] == office.client.simulate_get(f"/tasks/{task_id}").json
    assert tasks[2] == office.client.simulate_get("/tasks/id-0").json
    assert (tasks[1]["bundle"], tasks[1]["state"], "error" in tasks[1]) == ("new.zip", "unpacking", False)
    assert (tasks[2]["state"], tasks[2]["error"]) == ("rejected", "it is encrypted")
