"""POST /data/{user_id} on a real Redis and MinIO, step by step from the request to the row."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from falcon.testing import Result, TestClient
from redis import Redis

from api.access import AccessRules
from api.app import create_app
from api.browsers import BrowserGuard
from api.guard import AccessGuard
from api.presence import Presence
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE, REFRESH_ASKED
from tests.api_parts import api_parts
from tests.api_process import eventually
from tests.integration.stepping import Stepping, csv_of
from worker.tasks import create_app as create_celery_app
from worker.trials import Trials


class Desk:
    """The application, the worker's task, and a second registered API process."""

    def __init__(self, rowdrop: Stepping, settings: Settings, redis: "Redis") -> None:
        self._rowdrop, self._redis = rowdrop, redis
        self._celery = create_celery_app(settings, lambda: rowdrop.wiring)
        app = create_app(api_parts(redis), BrowserGuard(), AccessGuard(AccessRules()))
        self.client = TestClient(app, headers={"Host": "localhost"})
        self.other = Presence(redis)
        self.threads = ThreadPoolExecutor(4)

    def close(self) -> None:
        self.threads.shutdown()
        self._celery.close()

    def post(self, user_id: str, wait: int | None = None) -> Result:
        return self.client.simulate_post(f"/data/{user_id}", params={} if wait is None else {"wait": wait})

    def post_meanwhile(self, user_id: str, wait: int) -> "Future[Result]":
        answer = self.threads.submit(self.post, user_id, wait)
        eventually(lambda: self._redis.llen(EVENTS_QUEUE))
        return answer

    def work(self) -> None:
        """Run the next enqueued task, as a worker would."""
        message: bytes = self._redis.rpop(EVENTS_QUEUE)  # type: ignore[assignment]
        task, arguments = json.loads(message)
        assert task == REFRESH_ASKED
        self._celery.tasks[task](*arguments)

    def look(self) -> None:
        """Record that the other process has just completed a check of output.csv."""
        self.other.sign(self.other.now())


@pytest.fixture
def desk(rowdrop: Stepping, settings: Settings, redis: "Redis") -> Iterator[Desk]:
    desk = Desk(rowdrop, settings, redis)
    yield desk
    desk.close()


def test_a_request_is_accepted_and_says_where_to_look(desk: Desk) -> None:
    result = desk.post("ü")
    assert (result.status_code, result.headers["location"]) == (202, "/data/%C3%BC")
    assert result.json == {"user_id": "ü", "status": "queued"}


def test_what_no_event_told_of_is_read_and_published(desk: Desk, rowdrop: Stepping) -> None:
    rowdrop.drop("0001", csv_of("Ann"), images=["png"])
    desk.post("0001")
    desk.work()
    rowdrop.publish()
    assert rowdrop.rows()["0001"].first_name == "Ann"
    assert rowdrop.backlog.dirty_users() == set()


def test_who_waits_is_answered_when_it_is_published_and_shown(desk: Desk, rowdrop: Stepping) -> None:
    rowdrop.drop("0001")
    answer = desk.post_meanwhile("0001", 60)
    desk.work()
    assert not answer.done()
    rowdrop.publish()
    eventually(meanwhile(desk.look, answer.done))
    assert (answer.result().status_code, answer.result().json["status"]) == (200, "updated")


def meanwhile(step: Callable[[], None], condition: Callable[[], bool]) -> Callable[[], bool]:
    """Return a condition that executes `step` before each evaluation."""

    def stepped() -> bool:
        step()
        return condition()

    return stepped


def test_who_waits_in_vain_is_told_that_it_is_queued(desk: Desk) -> None:
    result = desk.post("0001", 1)
    assert (result.status_code, result.json["status"]) == (202, "queued")


def test_a_user_whose_files_are_gone_is_published_as_gone(desk: Desk, rowdrop: Stepping) -> None:
    rowdrop.drop("0001")
    rowdrop.land("0001")
    rowdrop.source.delete("0001.csv")
    desk.post("0001")
    desk.work()
    rowdrop.publish()
    assert rowdrop.rows() == {}


def test_a_user_who_is_to_be_read_alone_is_read_alone(desk: Desk, rowdrop: Stepping, redis: "Redis") -> None:
    rowdrop.drop("0001")
    rowdrop.mark("0001")
    trials = Trials(redis)
    trials.set_apart("a reading", ["0001"])
    desk.post("0001")
    desk.work()
    rowdrop.publish()
    assert "0001" in rowdrop.rows()
    assert trials.users() == set()


@pytest.mark.parametrize("user_id", ["x" * 252, "a%09b"])
def test_what_can_be_no_user_is_refused(desk: Desk, user_id: str) -> None:
    assert desk.post(user_id).json["type"] == "/docs#wrong-name"


@pytest.mark.parametrize("wait", [-1, 601])
def test_a_wrong_wait_is_refused(desk: Desk, wait: int) -> None:
    assert desk.post("0001", wait).status_code == 400
