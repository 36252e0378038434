"""POST /data/{user_id} and PUT /files/{name}?wait= on a real Redis and MinIO, step by step."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from falcon.testing import Result
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.controllers.completion_waiter import CompletionWaiter
from api.controllers.drop_controller import NO_ROW, REDIS_UNAVAILABLE, REPLACED
from api.controllers.refresh_controller import RefreshController
from api.snapshot.follower import FollowerConnections, SnapshotPoller
from api.snapshot.process_registry import ProcessRegistry
from api.web.thread_pool import ThreadPool
from local.ports import find_free_port
from shared.progress.rebuilds import RefreshRequests
from shared.s3.files import open_file_store
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE, REFRESH_REQUESTED, TaskQueue, create_celery
from tests.api_parts import ApiClient, make_dependencies
from tests.api_process import wait_until
from tests.integration.stepping import RowdropHarness, make_csv
from worker.tasks import create_app as create_celery_app

INVALID = b"first_name,last_name,birthts\nAnn,Lee,soon\n"


class ApiWithWorker:
    """The application, the worker's task, and the follower of the only registered API process."""

    def __init__(self, rowdrop: RowdropHarness, settings: Settings, redis: "Redis") -> None:
        self._rowdrop = rowdrop
        self._redis = redis
        self._celery = create_celery_app(settings, lambda: rowdrop.services)
        self.poller = SnapshotPoller(FollowerConnections(rowdrop.output, redis), time.time)
        self.poller.poll_once()
        parts = make_dependencies(
            redis,
            lambda: self.poller.view,
            open_file_store(settings, settings.source_bucket),
        )
        app = create_app(parts, CrossSiteMiddleware(), AuthMiddleware(AccessRules()))
        self.client = ApiClient(app, headers={"Host": "localhost"})
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

    def put(self, name: str, body: bytes, wait: int) -> Result:
        return self.client.simulate_put(f"/files/{name}", body=body, params={"wait": wait})

    def put_in_thread(self, name: str, body: bytes) -> "Future[Result]":
        answer = self.threads.submit(self.put, name, body, 60)
        wait_until(lambda: self._redis.llen(EVENTS_QUEUE))
        return answer

    def put_and_process(self, name: str, body: bytes, rowdrop: RowdropHarness) -> Result:
        """Upload a file and wait; run its task, publish and follow in the meantime."""
        answer = self.put_in_thread(name, body)
        self.work()
        rowdrop.publish_pending()
        assert not answer.done()
        wait_until(evaluate_after(self.poller.poll_once, answer.done))
        return answer.result()

    def work(self) -> None:
        """Run the next enqueued task, as a worker would."""
        message: bytes = self._redis.rpop(EVENTS_QUEUE)  # type: ignore[assignment]
        task, arguments = json.loads(message)
        assert task == REFRESH_REQUESTED
        self._celery.tasks[task](*arguments)


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
    wait_until(evaluate_after(api.poller.poll_once, answer.done))
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
    assert api.post(user_id).json["type"] == "/docs#wrong-parameter"


@pytest.mark.parametrize("wait", [-1, 601])
def test_post_user_refuses_invalid_wait(api: ApiWithWorker, wait: int) -> None:
    assert api.post("0001", wait).status_code == 400


def test_put_with_wait_answers_with_row(api: ApiWithWorker, rowdrop: RowdropHarness) -> None:
    result = api.put_and_process("ü.csv", make_csv("Ann"), rowdrop)
    assert (result.status_code, result.json["status"]) == (200, "published")
    assert result.json["etag"] == rowdrop.source.get_etag("ü.csv")
    row = api.client.simulate_get("/data/ü").json
    assert (result.json["row"], row["first_name"]) == (row, "Ann")
    assert (result.json["result"], result.json["reason"]) == ("row", None)


def test_put_with_wait_answers_with_suspicion(api: ApiWithWorker, rowdrop: RowdropHarness) -> None:
    body = b"first_name,last_name,birthts\nAnn,Lee,946674001\n"
    result = api.put_and_process("0001.csv", body, rowdrop)
    assert (result.status_code, result.json["row"]["birthts"]) == (200, 946674001)
    receipt = api.client.simulate_get("/files/0001.csv/receipt").json
    assert result.json["result"] == receipt["result"] == "suspicious"
    assert result.json["reason"] == receipt["reason"]
    assert "seconds" in result.json["reason"]


def test_put_with_wait_answers_with_row_of_image(
    api: ApiWithWorker, rowdrop: RowdropHarness, settings: Settings
) -> None:
    result = api.put_and_process("0001.png", b"image", rowdrop)
    assert (result.status_code, result.json["row"]) == (200, None)
    assert (result.json["result"], result.json["reason"]) == ("part", NO_ROW)
    rowdrop.put_files("0001")
    result = api.put_and_process("0001.png", b"another", rowdrop)
    assert result.json["row"]["img_path"] == f"{settings.source_bucket}/0001.png"
    assert (result.json["result"], result.json["reason"]) == ("part", None)


def test_put_with_wait_answers_with_reason_of_reject(
    api: ApiWithWorker, rowdrop: RowdropHarness
) -> None:
    for is_held in (False, True):
        result = api.put_and_process("0001.csv", INVALID, rowdrop)
        assert (result.status_code, result.json["type"]) == (422, "/docs#rejected")
        assert result.json["reason"].startswith("birthts: ")
        assert result.json["reason"] in result.json["detail"]
        assert (result.json["line"], result.json["held"]) == (2, is_held)
        assert result.json["etag"] == rowdrop.source.get_etag("0001.csv")
        api.put_and_process("0001.csv", make_csv("Ann"), rowdrop)


def test_put_with_wait_reports_rejected_replacement_as_superseded(
    api: ApiWithWorker, rowdrop: RowdropHarness
) -> None:
    """The row is that of an earlier version, and not of the one that was uploaded."""
    api.put_and_process("0001.csv", make_csv("Ann"), rowdrop)
    answer = api.put_in_thread("0001.csv", make_csv("Bob"))
    rowdrop.put_files("0001", INVALID)
    api.work()
    rowdrop.publish_pending()
    wait_until(evaluate_after(api.poller.poll_once, answer.done))
    result = answer.result()
    assert (result.status_code, result.json["row"]["first_name"]) == (200, "Ann")
    assert (result.json["result"], result.json["reason"]) == ("superseded", REPLACED)


def test_put_with_wait_times_out_as_stored(api: ApiWithWorker, rowdrop: RowdropHarness) -> None:
    result = api.put("0001.csv", make_csv("Ann"), 1)
    assert (result.status_code, result.json["status"]) == (202, "stored")
    assert rowdrop.source.get_etag("0001.csv") == result.json["etag"]


def test_put_with_invalid_wait_stores_nothing(api: ApiWithWorker, rowdrop: RowdropHarness) -> None:
    assert api.put("0001.csv", make_csv("Ann"), 601).status_code == 400
    assert rowdrop.source.get_etag("0001.csv") is None


def test_put_with_wait_succeeds_without_redis(rowdrop: RowdropHarness, settings: Settings) -> None:
    url = f"redis://127.0.0.1:{find_free_port()}"
    parts = make_dependencies(
        Redis.from_url(url, socket_connect_timeout=1),
        files=open_file_store(settings, settings.source_bucket),
        queue=TaskQueue(create_celery(url, 1)),
    )
    app = create_app(parts, CrossSiteMiddleware(), AuthMiddleware(AccessRules()))
    client = ApiClient(app, headers={"Host": "localhost"})
    result = client.simulate_put("/files/0001.csv", body=make_csv("Ann"), params={"wait": 5})
    assert (result.status_code, result.json["message"]) == (202, REDIS_UNAVAILABLE)
    assert rowdrop.source.get_etag("0001.csv") == result.json["etag"]


def test_put_with_wait_succeeds_while_too_many_wait_for_redis(
    rowdrop: RowdropHarness, settings: Settings, redis: "Redis"
) -> None:
    """The file is stored, so a 503 would make its client upload it again."""
    pool = ThreadPool("Redis", 1, 5.0, max_queued=0)
    is_busy = threading.Event()
    released = threading.Event()

    def enqueue(user_id: str, request_id: str) -> None:
        is_busy.set()
        released.wait()

    refreshes = RefreshController(
        RefreshRequests(redis), enqueue, CompletionWaiter(ProcessRegistry(redis), 2, pool), pool
    )
    parts = make_dependencies(redis, files=open_file_store(settings, settings.source_bucket))
    app = create_app(
        parts._replace(refresh_controller=refreshes),
        CrossSiteMiddleware(),
        AuthMiddleware(AccessRules()),
    )
    client = ApiClient(app, headers={"Host": "localhost"})

    def put(name: str) -> Result:
        return client.simulate_put(f"/files/{name}", body=make_csv("Ann"), params={"wait": 1})

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(put, "0001.csv")
        is_busy.wait()
        second = put("0002.csv")
        released.set()
        assert first.result().status_code == 202
    assert (second.status_code, second.json["message"]) == (202, REDIS_UNAVAILABLE)
    assert rowdrop.source.get_etag("0002.csv") == second.json["etag"]
