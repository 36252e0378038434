"""PUT /files/{name}?wait= of a bundle, on a real Redis and MinIO, step by step."""

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from falcon.testing import Result
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import Dependencies, create_app
from api.controllers.bundle_drop_controller import (
    BUNDLE_REPLACED,
    RECORD_LOST,
    STORE_UNAVAILABLE,
)
from api.controllers.completion_waiter import NOT_YET_VISIBLE, TOO_MANY_WAITING, CompletionWaiter
from api.controllers.drop_controller import REDIS_UNAVAILABLE
from api.controllers.task_descriptions import NO_USERS
from api.snapshot.follower import FollowerConnections, SnapshotPoller
from api.snapshot.process_registry import ProcessRegistry
from api.web.thread_pool import ThreadPool
from api.web.transfers import Transfers
from local.ports import find_free_port
from shared.formats.object_names import CATALOG_KEY
from shared.formats.records import PREVIOUS_VERSION_KEPT
from shared.formats.source_keys import make_bundle_id
from shared.object_store import FileStore, Segment, md5_etag
from shared.s3.files import S3FileStore, open_file_store
from shared.s3.objects import S3ObjectStore
from shared.settings import Settings
from tests.api_parts import ApiClient, make_dependencies
from tests.api_process import wait_until
from tests.archives import make_zip
from tests.fakes import FakeObjectStore
from tests.integration.stepping import RowdropHarness, make_csv
from tests.integration.test_bundles import wait_for_next_second
from worker.bundles.catalog import read_catalog

INVALID = b"first_name,last_name,birthts\nAnn,Lee,soon\n"
BUNDLE = make_zip({"1.csv": make_csv("Ann"), "2.csv": INVALID, "notes.txt": b"x"})
ANOTHER = make_zip({"1.csv": make_csv("Bob")})
BROKEN = b"no archive"


class CountingWaiter(CompletionWaiter):
    """Counts how often the conditions that requests wait for were evaluated."""

    count = 0

    async def wait_until(
        self,
        condition: Callable[[], Awaitable[bool]],
        deadline: float,
        poll_interval_s: float = 0.0,
    ) -> bool:
        async def count_evaluation() -> bool:
            holds = await condition()
            self.count += 1
            return holds

        return await super().wait_until(count_evaluation, deadline, 0.01)


class ApiWithFollower:
    """The application, and the follower of the only registered API process."""

    def __init__(
        self, rowdrop: RowdropHarness, settings: Settings, output: FileStore | None = None
    ) -> None:
        redis = rowdrop.redis
        self._rowdrop = rowdrop
        self.poller = SnapshotPoller(FollowerConnections(rowdrop.output, redis), time.time)
        self.poller.poll_once()
        parts = make_dependencies(
            redis,
            lambda: self.poller.view,
            open_file_store(settings, settings.source_bucket),
            output or open_file_store(settings, settings.output_bucket),
        )
        self._waiter = CountingWaiter(ProcessRegistry(redis), 2, parts.redis_pool)
        self.client = create_client(parts._replace(waiter=self._waiter))
        self.threads = ThreadPoolExecutor(4)

    def put(self, name: str, body: bytes, wait: int) -> Result:
        return self.client.simulate_put(f"/files/{name}", body=body, params={"wait": wait})

    def get(self, path: str) -> Any:  # noqa: ANN401
        return self.client.simulate_get(path).json

    def put_in_thread(self, name: str, body: bytes, wait: int = 60) -> "Future[Result]":
        """Start an upload that waits; return after it has found its result missing."""
        before = self._waiter.count
        answer = self.threads.submit(self.put, name, body, wait)
        wait_until(lambda: answer.done() or self._waiter.count > before)
        return answer

    def assert_is_waiting(self, answer: "Future[Result]", *, follows: bool = True) -> None:
        """Assert that evaluations which begin now do not end the wait; with checks of MinIO."""
        for _ in range(3):
            if follows:
                self.poller.poll_once()
            before = self._waiter.count
            wait_until(lambda: answer.done() or self._waiter.count >= before + 2)  # noqa: B023
            assert not answer.done()

    def finish(self, answer: "Future[Result]") -> Result:
        """Follow what is published until the answer is there."""

        def poll() -> bool:
            self.poller.poll_once()
            return answer.done()

        wait_until(poll)
        return answer.result()

    def process(self, *names: str) -> None:
        """Mark and unpack these bundles, publish their users, and record the end of the unpacks."""
        self._rowdrop.process_bundles(*names)
        self._rowdrop.services.records.unpacks.finish_published(time.time())

    def put_and_process(self, name: str, body: bytes) -> Result:
        answer = self.put_in_thread(name, body)
        self.process(name)
        return self.finish(answer)


def create_client(parts: Any) -> ApiClient:  # noqa: ANN401
    app = create_app(parts, CrossSiteMiddleware(), AuthMiddleware(AccessRules()))
    return ApiClient(app, headers={"Host": "localhost"})


@pytest.fixture
def api(rowdrop: RowdropHarness, settings: Settings) -> Iterator[ApiWithFollower]:
    api = ApiWithFollower(rowdrop, settings)
    yield api
    api.threads.shutdown()


def test_put_bundle_with_wait_answers_with_counts(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    """The users are published after the bundle, and served after that."""
    answer = api.put_in_thread("ü.zip", BUNDLE)
    api.assert_is_waiting(answer)
    rowdrop.mark_users(make_bundle_id("ü.zip"))
    assert rowdrop.unpack_next_bundle()
    rowdrop.publish_pending()
    api.assert_is_waiting(answer)
    api.process()
    api.assert_is_waiting(answer, follows=False)
    result = api.finish(answer)
    assert (result.status_code, result.json["status"]) == (200, "published")
    assert (result.json["result"], result.json["reason"]) == ("unpacked", None)
    task = api.client.simulate_get(f"/tasks/{result.json['task_id']}").json
    assert result.json | task == result.json
    assert (task["state"], task["users"], task["published"]) == ("done", 2, 2)
    assert (task["rejected"], task["ignored"]) == (1, 1)
    assert result.json["etag"] == rowdrop.source.get_etag("ü.zip")
    schemas = api.client.simulate_get("/openapi.json").json["components"]["schemas"]
    schema = schemas["PublishedBundle"]
    assert set(schema["required"]) <= result.json.keys() <= schema["properties"].keys()
    assert api.client.simulate_get("/data/1").json["first_name"] == "Ann"


def test_bundle_receipt_is_pending_until_users_are_served(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    """No sweep has verified the state, so only the record of the unpack says it."""

    def find_result() -> str:
        return str(api.get("/files/u.zip/receipt")["result"])

    rowdrop.publish_pending()
    api.poller.poll_once()
    for body in (BUNDLE, ANOTHER):
        rowdrop.source.put("u.zip", body)
        rowdrop.mark_users(make_bundle_id("u.zip"))
        assert find_result() == "pending"
        assert rowdrop.unpack_next_bundle()
        api.poller.poll_once()
        assert find_result() == "pending"
        api.process()
        assert find_result() == "pending"
        api.poller.poll_once()
        assert find_result() == "unpacked"


def test_put_bundle_with_wait_answers_for_unchanged_archive(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    """Nothing is unpacked again, and the answer is not that of the first upload."""
    first = api.put_and_process("u.zip", BUNDLE)
    wait_for_next_second(rowdrop, "u.zip")
    answer = api.put_in_thread("u.zip", BUNDLE)
    api.assert_is_waiting(answer)
    api.process("u.zip")
    result = api.finish(answer)
    assert result.status_code == 200
    for field in ("etag", "result", "task_id", "started_at", "users", "rejected"):
        assert result.json[field] == first.json[field], field


class ChangingStore(S3FileStore):
    """An output bucket that runs `change` before the next read of the bundle catalog."""

    change: Callable[[], None] | None = None

    def get_segment(
        self,
        key: str,
        start: int,
        length: int,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Segment:
        if key == CATALOG_KEY and self.change:
            change = self.change
            self.change = None
            change()
        return super().get_segment(key, start, length, if_match, if_none_match)


def test_put_bundle_with_wait_waits_for_marks_after_catalog(
    rowdrop: RowdropHarness, settings: Settings
) -> None:
    """A worker changes the catalog before it marks the users: the old record is still "done"."""
    store = ChangingStore(rowdrop.output)
    api = ApiWithFollower(rowdrop, settings, store)
    api.put_and_process("u.zip", BUNDLE)
    wait_for_next_second(rowdrop, "u.zip")

    def write_catalog() -> None:
        rowdrop.mark_users(make_bundle_id("u.zip"))
        catalog, etag = read_catalog(rowdrop.output)
        since = rowdrop.source.get("u.zip").last_modified
        entry = replace(catalog.entries["u.zip"], since=since, visible_since=since)
        rowdrop.output.put_if_unchanged(
            CATALOG_KEY, catalog.with_entry("u.zip", entry).encode("nonce"), etag
        )

    store.change = write_catalog
    answer = api.put_in_thread("u.zip", BUNDLE)
    api.assert_is_waiting(answer)
    api.process()
    assert api.finish(answer).json["result"] == "unpacked"
    api.threads.shutdown()


def test_put_bundle_with_wait_answers_with_reason_of_reject(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    for is_held in (False, True):
        result = api.put_and_process("u.zip", BROKEN)
        assert (result.status_code, result.json["type"]) == (422, "/docs#rejected")
        assert result.json["reason"] == rowdrop.read_rejects()[make_bundle_id("u.zip")].reason
        assert result.json["reason"].endswith(PREVIOUS_VERSION_KEPT) == is_held
        assert result.json["reason"] in result.json["detail"]
        assert (result.json["name"], result.json["user_id"]) == ("u.zip", None)
        assert (result.json["line"], result.json["held"]) == (None, is_held)
        receipt = api.get("/files/u.zip/receipt")
        assert (receipt["result"], receipt["held"]) == ("rejected", is_held)
        kinds = [each["kind"] for each in api.get("/errors") if each["key"] == "u.zip"]
        assert kinds == ["held" if is_held else "rejected"]
        assert result.json["etag"] == rowdrop.source.get_etag("u.zip")
        assert api.put_and_process("u.zip", BUNDLE).status_code == 200


def test_put_bundle_with_wait_reports_replaced_archive_as_superseded(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    """Also if it is replaced while its users are published, and by an invalid archive."""
    answer = api.put_in_thread("u.zip", BUNDLE)
    rowdrop.mark_users(make_bundle_id("u.zip"))
    assert rowdrop.unpack_next_bundle()
    rowdrop.publish_pending()
    api.assert_is_waiting(answer)
    rowdrop.source.put("u.zip", ANOTHER)
    api.process("u.zip")
    result = api.finish(answer)
    assert (result.status_code, result.json["result"]) == (200, "superseded")
    assert (result.json["reason"], result.json["etag"]) == (BUNDLE_REPLACED, md5_etag(BUNDLE))
    answer = api.put_in_thread("u.zip", BUNDLE)
    rowdrop.source.put("u.zip", BROKEN)
    api.process("u.zip")
    assert api.finish(answer).json["result"] == "superseded"


def test_put_bundle_with_wait_reports_deleted_archive_as_superseded(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    answer = api.put_in_thread("u.zip", BUNDLE)
    rowdrop.source.delete("u.zip")
    api.process("u.zip")
    result = api.finish(answer)
    assert (result.status_code, result.json["result"]) == (200, "superseded")
    assert "task_id" not in result.json


def test_put_bundle_with_wait_answers_for_archive_without_users(api: ApiWithFollower) -> None:
    result = api.put_and_process("u.zip", make_zip({"notes.txt": b"x"}))
    assert (result.status_code, result.json["users"]) == (200, 0)
    assert result.json["message"] == NO_USERS


def test_put_bundle_with_wait_times_out_as_stored(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    result = api.put("u.zip", BUNDLE, 1)
    assert (result.status_code, result.json["status"]) == (202, "stored")
    assert "message" not in result.json
    assert rowdrop.source.get_etag("u.zip") == result.json["etag"]


def test_put_bundle_with_wait_reports_not_yet_visible(
    api: ApiWithFollower,
) -> None:
    answer = api.put_in_thread("u.zip", BUNDLE, 5)
    api.process("u.zip")
    result = answer.result()
    assert (result.status_code, result.json["message"]) == (202, NOT_YET_VISIBLE)


def test_put_bundle_with_wait_limits_concurrent_waits(
    api: ApiWithFollower, rowdrop: RowdropHarness
) -> None:
    answers = [api.put_in_thread(name, BUNDLE) for name in ("a.zip", "b.zip")]
    result = api.put("c.zip", BUNDLE, 60)
    assert (result.status_code, result.json["message"]) == (202, TOO_MANY_WAITING)
    api.process("a.zip", "b.zip")
    assert [api.finish(answer).status_code for answer in answers] == [200, 200]


def test_put_bundle_with_wait_stays_202_after_redis_was_emptied(
    api: ApiWithFollower, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    """The marks of the users are lost: only a sweep finds that they are not published."""
    answer = api.put_in_thread("u.zip", BUNDLE)
    rowdrop.mark_users(make_bundle_id("u.zip"))
    assert rowdrop.unpack_next_bundle()
    redis.flushdb()
    result = api.finish(answer)
    assert (result.status_code, result.json["message"]) == (202, RECORD_LOST)


def test_put_bundle_with_wait_succeeds_without_redis(
    rowdrop: RowdropHarness, settings: Settings
) -> None:
    url = f"redis://127.0.0.1:{find_free_port()}"
    parts = make_dependencies(
        Redis.from_url(url, socket_connect_timeout=1),
        files=open_file_store(settings, settings.source_bucket),
    )
    client = create_client(parts)
    result = client.simulate_put("/files/u.zip", body=BUNDLE, params={"wait": 5})
    assert (result.status_code, result.json["message"]) == (202, REDIS_UNAVAILABLE)
    assert rowdrop.source.get_etag("u.zip") == result.json["etag"]


def test_put_bundle_with_wait_succeeds_without_access_to_catalog(
    rowdrop: RowdropHarness, settings: Settings, unauthorized_store: S3ObjectStore
) -> None:
    api = ApiWithFollower(rowdrop, settings, S3FileStore(unauthorized_store))
    result = api.put("u.zip", BUNDLE, 60)
    assert (result.status_code, result.json["message"]) == (202, STORE_UNAVAILABLE)
    assert rowdrop.source.get_etag("u.zip") == result.json["etag"]
    api.threads.shutdown()


class CountingStore(FakeObjectStore):
    """An output bucket that counts the bytes that are read of it, and may hold reads."""

    def __init__(self, catalog: bytes) -> None:
        super().__init__("processed-data", lambda: 1000.0)
        self.put(CATALOG_KEY, catalog)
        self.read_bytes = 0
        self.request_count = 0
        self.may_read = threading.Event()
        self.may_read.set()

    def get_segment(
        self,
        key: str,
        start: int,
        length: int,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Segment:
        self.request_count += 1
        assert self.may_read.wait(60)
        segment = super().get_segment(key, start, length, if_match, if_none_match)
        self.read_bytes += len(segment.body)
        return segment


def make_parts_with_catalog(redis: "Redis", output: CountingStore) -> Dependencies:
    files = FakeObjectStore("src-data", lambda: 1000.0)
    return make_dependencies(redis, files=files, copies=output)


def make_catalog(fields: object) -> bytes:
    return json.dumps({"bundles": {"u.zip": fields}}).encode()


@pytest.mark.parametrize(
    "catalog",
    [
        b'{"bundles": null}',
        100_000 * b"[",
        make_catalog(None),
        make_catalog({"etag": md5_etag(BUNDLE), "since": 1000, "digest": []}),
        make_catalog({"etag": md5_etag(BUNDLE), "since": 1000, "digest": "\ud800"}),
        make_catalog({"etag": md5_etag(BUNDLE), "since": 1000}),
    ],
)
def test_put_bundle_with_wait_ignores_invalid_catalog(redis: "Redis", catalog: bytes) -> None:
    """The archive is stored, so this is no error of the upload."""
    client = create_client(make_parts_with_catalog(redis, CountingStore(catalog)))
    result = client.simulate_put("/files/u.zip", body=BUNDLE, params={"wait": 1})
    assert (result.status_code, result.json["status"]) == (202, "stored")
    assert "message" not in result.json


def test_put_bundle_with_wait_reads_unchanged_catalog_once(redis: "Redis") -> None:
    """The catalog of many bundles is large, and each check of each request needs it."""
    output = CountingStore(make_catalog({"etag": "0", "since": 1, "digest": ""}))
    client = create_client(make_parts_with_catalog(redis, output))
    for _ in range(2):
        client.simulate_put("/files/u.zip", body=BUNDLE, params={"wait": 1})
    assert output.request_count > 2
    assert output.read_bytes == len(output.objects[CATALOG_KEY].body)


def test_put_bundle_with_wait_says_that_store_is_busy(redis: "Redis") -> None:
    output = CountingStore(b"{}")
    output.may_read.clear()
    parts = make_parts_with_catalog(redis, output)
    busy_pool = ThreadPool("storage", 1, 5.0, max_queued=0)
    transfers = Transfers(output.bucket, lambda: output, busy_pool)
    client = create_client(parts._replace(copy_transfers=transfers))

    def put(wait: int) -> Result:
        return client.simulate_put("/files/u.zip", body=BUNDLE, params={"wait": wait})

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(put, 1)
        wait_until(lambda: output.request_count == 1)
        second = threads.submit(put, 60).result()
        output.may_read.set()
        assert (second.status_code, second.json["message"]) == (202, TOO_MANY_WAITING)
        assert first.result().status_code == 202
