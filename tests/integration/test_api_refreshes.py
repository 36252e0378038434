"""POST /data/{user_id} on a real Redis and MinIO, step by step from the request to the row."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from falcon.testing import Result
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.snapshot.process_registry import ProcessRegistry
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE, REFRESH_REQUESTED
from tests.api_parts import ApiClient, make_dependencies
from tests.api_process import wait_until
from tests.integration.stepping import RowdropHarness, make_csv
from worker.tasks import create_app as create_celery_app


class ApiWithWorker:
    """The application, the worker's task, and a second registered API process."""

    def __init__(self, rowdrop: RowdropHarness, settings: Settings, redis: "Redis") -> None:
        self._rowdrop = rowdrop
        self._redis = redis
        self._celery = create_celery_app(settings, lambda: rowdrop.services)
        app = create_app(
            make_dependencies(redis), CrossSiteMiddleware(), AuthMiddleware(AccessRules())
        )
        self.client = ApiClient(app, headers={"Host": "localhost"})
        self.other = ProcessRegistry(redis)
        self.threads = ThreadPoolExecutor(4)

    def close(self) -> None:
        self.threads.shutdown()
        self._celery.close()

    def post(self, user_id: str, wait: int | None = None) -> Result:
        return self.client.simulate_post(
            f"/data/{user_id}", params={} if wait is None else {"wait": wait}
        )

    def post_in_thread(self, user_id: str, wait: int) -> "Future[Result]":
        answer = self.threads.submit(self.post, user_id, wait)
        wait_until(lambda: self._redis.llen(EVENTS_QUEUE))
        return answer

    def work(self) -> None:
        """Run the next enqueued task, as a worker would."""
        message: bytes = self._redis.rpop(EVENTS_QUEUE)  # type: ignore[assignment]
        task, arguments = json.loads(message)
        assert task == REFRESH_REQUESTED
        self._celery.tasks[task](*arguments)

    def record_poll(self) -> None:
        """Record that the other process has just completed a check of output.csv."""
        self.other.send_heartbeat(self.other.read_clock())


@pytest.fixture
def api(rowdrop: RowdropHarness, settings: Settings, redis: "Redis") -> Iterator[ApiWithWorker]:
    api = ApiWithWorker(rowdrop, settings, redis)
    yield api
    api.close()


def test_post_user_is_accepted_with_location(api: ApiWithWorker) -> None:
    result = api.post("ü")
    assert (result.status_code, result.headers["location"]) == (202, "/data/%C3%BC")
    assert result.json == {"user_id": "ü", "status": "queued"}


def test_post_user_reads_and_publishes_without_event(
    api: ApiWithWorker, rowdrop: RowdropHarness
) -> None:
    rowdrop.put_files("0001", make_csv("Ann"), images=["png"])
    api.post("0001")
    api.work()
    rowdrop.publish_pending()
    assert rowdrop.read_rows()["0001"].first_name == "Ann"
    assert rowdrop.state.users.dirty_users() == set()


def test_post_user_with_wait_answers_after_publish(
    api: ApiWithWorker, rowdrop: RowdropHarness
) -> None:
    rowdrop.put_files("0001")
    answer = api.post_in_thread("0001", 60)
    api.work()
    assert not answer.done()
    rowdrop.publish_pending()
    wait_until(evaluate_after(api.record_poll, answer.done))
    assert (answer.result().status_code, answer.result().json["status"]) == (200, "updated")


def evaluate_after(step: Callable[[], None], condition: Callable[[], bool]) -> Callable[[], bool]:
    """Return a condition that executes `step` before each evaluation."""

    def evaluate() -> bool:
        step()
        return condition()

    return evaluate


def test_post_user_with_wait_times_out_as_queued(api: ApiWithWorker) -> None:
    result = api.post("0001", 1)
    assert (result.status_code, result.json["status"]) == (202, "queued")


def test_post_user_removes_row_of_deleted_files(
    api: ApiWithWorker, rowdrop: RowdropHarness
) -> None:
    rowdrop.put_files("0001")
    rowdrop.process_users("0001")
    rowdrop.source.delete("0001.csv")
    api.post("0001")
    api.work()
    rowdrop.publish_pending()
    assert rowdrop.read_rows() == {}


def test_post_user_reads_isolated_user_alone(
    api: ApiWithWorker, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    rowdrop.put_files("0001")
    rowdrop.mark_users("0001")
    attempts = rowdrop.state.attempts
    attempts.isolate("a reading", ["0001"])
    api.post("0001")
    api.work()
    rowdrop.publish_pending()
    assert "0001" in rowdrop.read_rows()
    assert attempts.isolated_ids() == set()


@pytest.mark.parametrize("user_id", ["x" * 252, "a%09b"])
def test_post_user_refuses_invalid_user_id(api: ApiWithWorker, user_id: str) -> None:
    assert api.post(user_id).json["type"] == "/docs#wrong-name"


@pytest.mark.parametrize("wait", [-1, 601])
def test_post_user_refuses_invalid_wait(api: ApiWithWorker, wait: int) -> None:
    assert api.post("0001", wait).status_code == 400
