"""Tests of `POST /events` with MinIO's own webhook target, a real API process and a real Redis."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig, TopicConfig
from redis import Redis

from local.ports import HOST, find_free_port
from local.servers import MinioOptions, MinioPorts, MinioServer, RedisServer, ServerUser, find_minio
from shared.formats.events import Event, decode_notification
from shared.redis_keys import FAST_EVENTS
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE
from tests.api_process import ApiEnvironment, ApiProcess, wait_until
from tests.conftest import MINIO_PASSWORD, MINIO_USER, create_bucket
from tests.factories import make_notification
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.listener import Listener
from worker.source.metrics import MinioMetrics, detect_losses
from worker.source.notifications import EVENT_TYPES, NotificationRules, RuleState

TOKEN = "token-of-the-events-0123"
WEBHOOK_ARN = "arn:minio:sqs::FAST:webhook"
ODD_NAME = "Zoë 1+1, 100%"


class WebhookMinio(MinioServer):
    """A MinIO that sends events to URLs only; `endpoints` maps the IDs of its targets to them."""

    endpoints: dict[str, str]

    def _build_target_settings(self) -> dict[str, str]:
        variables = {}
        for target, endpoint in self.endpoints.items():
            values = {"ENABLE": "on", "ENDPOINT": endpoint, "AUTH_TOKEN": TOKEN}
            for name, value in values.items():
                variables[f"MINIO_NOTIFY_WEBHOOK_{name}_{target}"] = value
        return variables


class RequestRecorder:
    """An HTTP server that keeps the requests that it gets, and answers 200."""

    def __init__(self) -> None:
        requests: list[tuple[str | None, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append((self.headers["Authorization"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:  # noqa: ANN401
                """Print nothing."""

        self.requests = requests
        self._server = HTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/events"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def recorder() -> Iterator[RequestRecorder]:
    recorder = RequestRecorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def api_port() -> int:
    return find_free_port()


@pytest.fixture(scope="module")
def webhook_minio(
    tmp_path_factory: pytest.TempPathFactory, api_port: int, recorder: RequestRecorder
) -> Iterator[WebhookMinio]:
    server = WebhookMinio(
        tmp_path_factory.mktemp("webhook-minio"),
        MinioPorts(find_free_port()),
        ServerUser(MINIO_USER, MINIO_PASSWORD),
        RedisServer(Path(), 0, ServerUser("", "")).address,
        MinioOptions(find_minio()),
    )
    server.endpoints = {
        "FAST": f"http://{HOST}:{api_port}/events",
        "RECORDER": recorder.url,
        "GONE": f"http://{HOST}:{find_free_port()}/events",
    }
    with server:
        yield server


@pytest.fixture
def minio(webhook_minio: WebhookMinio) -> Minio:
    address = urlsplit(webhook_minio.endpoint).netloc
    return Minio(address, MINIO_USER, MINIO_PASSWORD, secure=False)


@pytest.fixture
def settings(
    redis: "Redis", redis_server: RedisServer, webhook_minio: WebhookMinio, minio: Minio
) -> Settings:
    return Settings(
        minio_endpoint=webhook_minio.endpoint,
        minio_access_key=MINIO_USER,
        minio_secret_key=MINIO_PASSWORD,
        redis_url=redis_server.url,
        source_bucket=create_bucket(minio),
        output_bucket=create_bucket(minio),
        events_token=TOKEN,
    )


@pytest.fixture
def api(
    settings: Settings, webhook_minio: WebhookMinio, redis_server: RedisServer, api_port: int,
    tmp_path: Path,
) -> Iterator[ApiProcess]:  # fmt: skip
    environment = ApiEnvironment(
        webhook_minio,
        settings.output_bucket,
        redis_server,
        tmp_path / "api.log",
        settings.source_bucket,
    )
    api = ApiProcess(
        dict(environment.api.environment) | {"EVENTS_TOKEN": TOKEN}, tmp_path / "api.log"
    )
    api.port = api_port
    with api:
        yield api


@pytest.fixture
def listener(rowdrop: RowdropHarness) -> Listener:
    return rowdrop.create_listener()


def add_rule(minio: Minio, bucket: str, target: str = "FAST") -> None:
    rule = QueueConfig(EVENT_TYPES, "webhook", queue=f"arn:minio:sqs::{target}:webhook")
    minio.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[rule]))


def send_event(api: ApiProcess, key: str, bucket: str) -> None:
    (event,) = json.loads(make_notification(key, bucket))[0]["Event"]
    body = json.dumps({"Records": [event]}).encode()
    answer = api.request("POST", "/events", body, Authorization=f"Bearer {TOKEN}")
    assert (answer.status, answer.json) == (202, {"accepted": 1, "ignored": 0})


def process_events(rowdrop: RowdropHarness, listener: Listener) -> int:
    """Process all events, read the marked users, publish; return the number of users read."""
    wait_until(lambda: rowdrop.redis.llen(FAST_EVENTS))
    while rowdrop.redis.llen(FAST_EVENTS):
        listener.run_once(0.1)
    users = rowdrop.state.users.dirty_users()
    rowdrop.services.refresher.refresh(list(users))
    rowdrop.publish_pending()
    rowdrop.redis.delete(EVENTS_QUEUE)
    assert rowdrop.state.users.dirty_users() == set()
    return len(users)


# -- from a drop to a row --------------------------------------------------------------------------
@pytest.mark.parametrize("user", ["0001", ODD_NAME])
def test_minio_webhook_drop_becomes_row(
    rowdrop: RowdropHarness, listener: Listener, api: ApiProcess, minio: Minio, user: str
) -> None:
    add_rule(minio, rowdrop.source.bucket)
    rowdrop.put_files(user)
    assert process_events(rowdrop, listener) == 1
    assert rowdrop.read_rows().keys() == {user}
    rowdrop.source.delete(f"{user}.csv")
    assert process_events(rowdrop, listener) == 1
    assert rowdrop.read_rows() == {}


def test_minio_webhook_sends_captured_form(
    settings: Settings, rowdrop: RowdropHarness, minio: Minio, recorder: RequestRecorder
) -> None:
    """The form of tests/notifications/minio.json, and the token as Bearer."""
    add_rule(minio, settings.source_bucket, "RECORDER")
    rowdrop.put_files(ODD_NAME)
    wait_until(lambda: recorder.requests)
    authorization, body = recorder.requests[-1]
    assert authorization == f"Bearer {TOKEN}"
    event = Event(settings.source_bucket, f"{ODD_NAME}.csv", "s3:ObjectCreated:Put")
    assert decode_notification(body).events == (event,)
    captured = Path(__file__).parents[1] / "notifications" / "minio.json"
    assert json.loads(captured.read_bytes()).keys() == json.loads(body).keys()


def test_minio_counts_events_that_webhook_did_not_take(
    settings: Settings, rowdrop: RowdropHarness, minio: Minio
) -> None:
    """So the watchdog detects the loss, as with the Redis target."""
    metrics = MinioMetrics(settings.minio_endpoint, "")
    before = metrics.read()
    add_rule(minio, settings.source_bucket, "GONE")
    rowdrop.put_files("u")

    def list_losses() -> list[str]:
        return detect_losses(before or "", metrics.read() or "")

    wait_until(lambda: list_losses() == ["events_failed"], 40)


# -- duplicates and lies ---------------------------------------------------------------------------
def test_events_route_duplicate_costs_one_read(
    rowdrop: RowdropHarness, listener: Listener, api: ApiProcess
) -> None:
    """MinIO sends the event to Redis and to the webhook."""
    bucket = rowdrop.source.bucket
    rowdrop.put_files("u")
    rowdrop.redis.rpush(FAST_EVENTS, make_notification("u.csv", bucket))
    send_event(api, "u.csv", bucket)
    assert rowdrop.redis.llen(FAST_EVENTS) == 2
    assert process_events(rowdrop, listener) == 1
    assert rowdrop.read_rows().keys() == {"u"}
    output = rowdrop.read_output()
    send_event(api, "u.csv", bucket)  # a late one costs a read of its own
    assert process_events(rowdrop, listener) == 1
    assert rowdrop.read_output() == output


@pytest.mark.parametrize("key", ["nobody.csv", "nobody.png", "u.png", "u.csv"])
def test_events_route_lie_costs_one_read(
    rowdrop: RowdropHarness, listener: Listener, api: ApiProcess, key: str
) -> None:
    """The event is about no object, or about an ETag that the object never had."""
    rowdrop.put_files("u")
    rowdrop.process_users("u")
    output = rowdrop.read_output()
    send_event(api, key, rowdrop.source.bucket)
    assert process_events(rowdrop, listener) == 1
    assert rowdrop.read_output() == output
    assert rowdrop.read_rejects() == {}
    assert rowdrop.find_differences() == []


def test_events_route_old_event_after_new_file_changes_nothing(
    rowdrop: RowdropHarness, listener: Listener, api: ApiProcess
) -> None:
    bucket = rowdrop.source.bucket
    rowdrop.put_files("u", make_csv("Old"))
    rowdrop.put_files("u", make_csv("New"))
    for _ in range(2):
        send_event(api, "u.csv", bucket)
        process_events(rowdrop, listener)
        assert rowdrop.read_rows()["u"].first_name == "New"


def test_events_route_refuses_other_tokens(api: ApiProcess) -> None:
    for authorization in ("Bearer wrong-token-of-20-letters", "Bearer "):
        answer = api.request("POST", "/events", b"{}", Authorization=authorization)
        assert answer.status == 401
    assert api.request("POST", "/events", b"{}").status == 401


def test_events_route_receives_chunked_body(api: ApiProcess, rowdrop: RowdropHarness) -> None:
    (event,) = json.loads(make_notification("u.csv", rowdrop.source.bucket))[0]["Event"]
    body = json.dumps({"Records": [event]}).encode()
    chunked: Any = iter([body[:10], body[10:]])
    answer = api.request("POST", "/events", chunked, Authorization=f"Bearer {TOKEN}")
    assert answer.status == 202
    endless: Any = (b" " * 100_000 for _ in range(20))
    answer = api.request("POST", "/events", endless, Authorization=f"Bearer {TOKEN}")
    assert answer.status == 413


# -- notification rules ----------------------------------------------------------------------------
def test_init_accepts_webhook_rule_only_with_token(
    settings: Settings, minio: Minio, capsys: pytest.CaptureFixture[str]
) -> None:
    add_rule(minio, settings.source_bucket)
    for token, is_available in ((TOKEN, True), ("", False)):
        rowdrop = RowdropHarness(replace(settings, events_token=token))
        Initializer(rowdrop.services, probe_timeout_s=0.5).run()
        assert rowdrop.state.inbox.events_available() is is_available
        assert ("MINIO_NOTIFY_REDIS_ENABLE_FAST" in capsys.readouterr().out) is not is_available
        rowdrop.close()
    rules = minio.get_bucket_notification(settings.source_bucket).queue_config_list
    assert [(rule.config_id, rule.queue) for rule in rules] == [("webhook", WEBHOOK_ARN)]


def test_init_prints_webhook_settings_without_rule(
    rowdrop: RowdropHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    Initializer(rowdrop.services).run()
    output = capsys.readouterr().out
    assert not rowdrop.state.inbox.events_available()
    for word in ("ENABLE", "ENDPOINT", "AUTH_TOKEN"):
        assert f"MINIO_NOTIFY_WEBHOOK_{word}_FAST=" in output
    assert f"mc event add <alias>/{rowdrop.source.bucket} {WEBHOOK_ARN}" in output
    assert TOKEN not in output


def test_watchdog_detects_removed_webhook_rule(rowdrop: RowdropHarness, minio: Minio) -> None:
    bucket = rowdrop.source.bucket
    add_rule(minio, bucket)
    check = rowdrop.create_checks(notification_rules=NotificationRules(minio, bucket))
    assert check.notification_rules
    check.notification_rules.tick(0)
    check.notification_rules.tick(0)
    assert rowdrop.state.loss_signals.unresolved() == set()
    minio.delete_bucket_notification(bucket)
    check.notification_rules.tick(0)
    assert rowdrop.state.loss_signals.unresolved() == {"rules_missing"}
    assert not rowdrop.state.inbox.events_available()


def test_only_init_ends_that_events_are_not_available(
    rowdrop: RowdropHarness, minio: Minio
) -> None:
    """The remedy of the message in docs/operations.md."""
    bucket = rowdrop.source.bucket
    check = rowdrop.create_checks(notification_rules=NotificationRules(minio, bucket))
    assert check.notification_rules
    check.notification_rules.tick(0)
    add_rule(minio, bucket)
    check.notification_rules.tick(0)
    assert not rowdrop.state.inbox.events_available()
    Initializer(rowdrop.services).run()
    assert rowdrop.state.inbox.events_available()


class OtherStore:
    """The notification requests of a store that is not MinIO: it knows topics, and no queues.

    `error` is the answer to a request that sets rules; None: queues are accepted and forgotten.
    """

    def __init__(self, topics: list[TopicConfig], error: S3Error | None = None) -> None:
        self.topics = topics
        self.queues: list[QueueConfig] = []
        self.error = error
        self.set_count = 0

    def get_bucket_notification(self, _bucket: str) -> NotificationConfig:
        return NotificationConfig([], self.queues, self.topics)

    def set_bucket_notification(self, _bucket: str, _config: NotificationConfig) -> None:
        self.set_count += 1
        if self.error:
            raise self.error


def test_notification_rules_never_replace_topics_of_other_store() -> None:
    topic = TopicConfig(EVENT_TYPES, "rowdrop", topic="arn:aws:sns:default::rowdrop")
    store = OtherStore([topic])
    other: Any = store
    rules = NotificationRules(other, "src-data")
    assert [rules.ensure_rules() for _ in range(2)] == [RuleState.OTHER_TARGET] * 2
    store.topics = [TopicConfig(["s3:ObjectCreated:*"], topic="arn:aws:sns:default::rowdrop")]
    assert rules.ensure_rules() is RuleState.UNSUPPORTED
    assert store.set_count == 0


def test_notification_rules_do_not_repeat_refused_rule(minio: Minio, settings: Settings) -> None:
    """The watchdog checks them every 15 s, and the server refuses the rule each time."""
    store = OtherStore([], S3Error(None, "InvalidArgument", "unknown ARN", "", "", ""))  # type: ignore[arg-type]
    other: Any = store
    rules = NotificationRules(other, "src-data")
    store.queues = [QueueConfig(EVENT_TYPES, "theirs", queue=WEBHOOK_ARN)]
    assert [rules.ensure_rules() for _ in range(3)] == [RuleState.OTHER_TARGET] * 3
    assert store.set_count == 1


def test_notification_rules_notice_forgotten_rule() -> None:
    """Ceph accepts rules for queues and forgets them."""
    other: Any = OtherStore([])
    assert NotificationRules(other, "src-data").ensure_rules() is RuleState.UNSUPPORTED


class MinioInRegion(MinioServer):
    """A MinIO with a region, which it also names in the ARNs of its targets."""

    def build_environment(self) -> dict[str, str]:
        return {**super().build_environment(), "MINIO_SITE_REGION": "eu-central-1"}


def test_notification_rules_recognize_target_of_another_region(
    tmp_path: Path, redis_server: RedisServer, minio_server: MinioServer
) -> None:
    ports = MinioPorts(find_free_port(), find_free_port())
    root = ServerUser(MINIO_USER, MINIO_PASSWORD)
    with MinioInRegion(
        tmp_path / "minio", ports, root, redis_server.address, minio_server.options
    ) as minio:
        address = minio.endpoint.removeprefix("http://")
        client = Minio(address, MINIO_USER, MINIO_PASSWORD, secure=False, region="eu-central-1")
        client.make_bucket("src-data", location="eu-central-1")
        rules = NotificationRules(client, "src-data")
        assert rules.ensure_rules() is RuleState.RESTORED
        assert rules.ensure_rules() is RuleState.PRESENT
        (rule,) = client.get_bucket_notification("src-data").queue_config_list
        assert rule.queue == "arn:minio:sqs:eu-central-1:FAST:redis"
