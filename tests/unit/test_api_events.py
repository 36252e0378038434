"""Tests of `POST /events`: its token, its limits, and what it appends to the event list."""

import asyncio
import json
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from falcon.testing import ASGIConductor, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError, NoPermissionError, RedisError

from api.access.access_rules import AccessOutcome, AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.access.failure_limiter import MAX_FAILURES, FailureLimiter
from api.app import create_app
from api.controllers.event_controller import MAX_EVENTS, MAX_WAITING_EVENTS, EventController
from api.web.bodies import MAX_BODY_BYTES
from api.web.thread_pool import ThreadPool
from local.ports import find_free_port
from shared.formats.events import Event, decode_entry
from shared.redis_keys import FAST_EVENTS
from shared.settings import Settings
from shared.tokens import Token, TokenKind
from tests.api_parts import ApiClient, make_dependencies
from tests.unit.test_api_auth import READ, TOKENS, WRITE, ManualClock, kind
from tests.unit.test_event_notifications import EXAMPLES, NEAR_NOTIFICATIONS, read_example

EVENTS = "the-token-of-the-events"
RULES = AccessRules(tokens=TOKENS, events_token=EVENTS)


class EventListStub:
    """The commands of Redis that the controller uses, on a list in memory."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.waiting_count = 0
        self.error: RedisError | None = None

    def llen(self, key: str) -> int:
        assert key == FAST_EVENTS
        return self.waiting_count + len(self.entries)

    def rpush(self, key: str, *entries: bytes) -> None:
        assert key == FAST_EVENTS
        if self.error:
            raise self.error
        self.entries += entries

    @property
    def keys(self) -> list[str]:
        """The keys of all events in the list."""
        return [event.key for entry in self.entries for event in decode_entry(entry)]


class Webhook:
    """The application with these rules, and the event list."""

    def __init__(self, rules: AccessRules = RULES) -> None:
        self.redis = EventListStub()
        self.time = ManualClock()
        limiter = FailureLimiter(lambda: self.time.now, self.time.sleep)
        event_list: Any = self.redis
        self.redis_pool = ThreadPool("Redis", 1, 5.0, max_queued=0)
        compute_pool = ThreadPool("computation", 2, 5.0)
        controller = EventController(event_list, "src-data", compute_pool, self.redis_pool)
        dependencies = make_dependencies(Redis(port=find_free_port()))
        dependencies = dependencies._replace(event_controller=controller)
        app = create_app(dependencies, CrossSiteMiddleware(()), AuthMiddleware(rules, limiter))
        self.client = ApiClient(app)

    def post(self, body: bytes, authorization: str | None = f"Bearer {EVENTS}") -> Result:
        sent = {"Host": "localhost"} | ({"Authorization": authorization} if authorization else {})
        return self.client.simulate_post("/events", body=body, headers=sent)


@pytest.fixture
def webhook(request: pytest.FixtureRequest) -> Webhook:
    return Webhook(getattr(request, "param", RULES))


def make_records(keys: Sequence[str], bucket: str = "src-data") -> bytes:
    records = [
        {
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
        }
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


# -- forms -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_events_route_accepts_form_of_each_store(webhook: Webhook, path: Any) -> None:  # noqa: ANN401
    answer = webhook.post(path.read_bytes())
    assert answer.status_code == 202
    assert answer.json["accepted"] == len(webhook.redis.keys)
    assert answer.json["accepted"] or answer.json["ignored"]


def test_events_route_appends_entry_per_event(webhook: Webhook) -> None:
    answer = webhook.post(make_records(["1.csv", "2.csv", "1.csv"]))
    assert (answer.status_code, answer.json) == (202, {"accepted": 2, "ignored": 0})
    assert [decode_entry(entry) for entry in webhook.redis.entries] == [
        [Event("src-data", key, "s3:ObjectCreated:Put")] for key in ("1.csv", "2.csv")
    ]


def test_events_route_ignores_other_buckets(webhook: Webhook) -> None:
    answer = webhook.post(make_records(["1.csv", "2.csv"], "processed-data"))
    assert (answer.status_code, answer.json) == (202, {"accepted": 0, "ignored": 2})
    assert webhook.redis.entries == []


def test_events_route_names_known_forms(webhook: Webhook) -> None:
    answer = webhook.post(b'{"hello":"world"}')
    assert (answer.status_code, kind(answer)) == (400, "about:blank")
    for name in ("MinIO", "RustFS", "Ceph", "SNS", "EventBridge", "SeaweedFS"):
        assert name in answer.json["detail"]


def test_events_route_logs_address_of_confirmation_only(
    webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing fetches the address: a sender could choose any."""
    body = read_example("sns_confirmation")
    assert webhook.post(body).status_code == 202
    assert json.loads(body)["SubscribeURL"] in caplog.text
    assert "if it is yours, open" in caplog.text
    forged = json.dumps(json.loads(body) | {"SubscribeURL": "http://x/\nFORGED LINE"}).encode()
    webhook.post(forged)
    assert "\nFORGED" not in caplog.text


def test_events_route_needs_no_content_type(webhook: Webhook) -> None:
    """AWS SNS sends JSON as text/plain."""
    headers = {"Host": "localhost", "Authorization": f"Bearer {EVENTS}"}
    for content_type in ("text/plain; charset=UTF-8", "application/json", "x"):
        answer = webhook.client.simulate_post(
            "/events", body=read_example("sns"), headers=headers | {"Content-Type": content_type}
        )
        assert answer.status_code == 202


# -- token -----------------------------------------------------------------------------------------
def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {EVENTS}", f"bearer {EVENTS}", basic("sns", EVENTS), basic("", EVENTS)],
)
def test_auth_middleware_accepts_token_as_bearer_or_password(
    webhook: Webhook, authorization: str
) -> None:
    assert webhook.post(read_example("aws"), authorization).status_code == 202


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", f"Bearer {EVENTS[:-1]}", f"Bearer {EVENTS}x", EVENTS,
        f"Bearer {WRITE}", f"Bearer {READ}", basic("x", WRITE), basic(EVENTS, ""),
        basic(EVENTS, "x"), basic("x", f"{EVENTS}:"), f"Basic {EVENTS}", "Basic", "Basic %%%",
        "Basic \xe9\xe9\xe9\xe9", "Basic " + b64encode(EVENTS.encode()).decode(), "Digest x",
    ],
)  # fmt: skip
def test_auth_middleware_accepts_events_only_with_their_token(
    webhook: Webhook, authorization: str | None
) -> None:
    """A local client needs it as well, and a write token is not accepted."""
    answer = webhook.post(read_example("aws"), authorization)
    assert (answer.status_code, kind(answer)) == (401, "token")
    assert answer.headers["WWW-Authenticate"] == 'Bearer, Basic realm="events"'
    assert webhook.redis.entries == []


@pytest.mark.parametrize("webhook", [AccessRules(tokens=TOKENS), AccessRules()], indirect=True)
def test_auth_middleware_refuses_events_without_setting(webhook: Webhook) -> None:
    for authorization in (None, "Bearer ", basic("x", ""), f"Bearer {WRITE}"):
        answer = webhook.post(read_example("aws"), authorization)
        assert (answer.status_code, kind(answer)) == (403, "access-refused")
        assert "EVENTS_TOKEN" in answer.json["detail"]


@pytest.mark.parametrize("webhook", [AccessRules(events_token=EVENTS)], indirect=True)
@pytest.mark.parametrize(
    "path", ["/events", "/events/", "/%65vents", "//events", "///events/", "/%2fevents"]
)
def test_auth_middleware_requires_events_token_in_every_spelling(
    webhook: Webhook, path: str
) -> None:
    """Also from a local client, which needs no token for other writes."""
    sent = {"Host": "localhost"}
    answer = webhook.client.simulate_post(path, body=read_example("aws"), headers=sent)
    assert (answer.status_code, kind(answer)) == (401, "token")
    sent["Authorization"] = f"Bearer {EVENTS}"
    assert webhook.client.simulate_post(path, body=b"{}", headers=sent).status_code == 400
    assert webhook.redis.entries == []


@pytest.mark.parametrize("webhook", [RULES], indirect=True)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/data"), ("GET", "/files"), ("GET", "/events"), ("PUT", "/files/1.csv"),
        ("DELETE", "/files/1.csv"), ("POST", "/data"), ("POST", "/data/1"), ("PUT", "/events"),
        ("POST", "/events/x"),
    ],
)  # fmt: skip
def test_auth_middleware_events_token_permits_nothing_else(
    webhook: Webhook, method: str, path: str
) -> None:
    sent = {"Host": "localhost", "Authorization": f"Bearer {EVENTS}"}
    answer = webhook.client.simulate_request(method, path, headers=sent)
    assert (answer.status_code, kind(answer)) == (401, "token")


def test_auth_middleware_delays_wrong_events_tokens(webhook: Webhook) -> None:
    for number in range(MAX_FAILURES + 5):
        assert webhook.post(b"{}", f"Bearer guess-{number}").status_code == 401
        assert webhook.post(b"{}", None).status_code == 401  # AWS SNS waits for the challenge
    assert webhook.time.sleeps == [1.0] * 5


def test_auth_middleware_logs_only_refused_events(
    webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    webhook.post(read_example("aws"))
    assert caplog.messages == []
    webhook.post(b"{}")
    assert caplog.messages == ["POST /events by EVENTS_TOKEN: 400"]
    assert EVENTS not in caplog.text


def test_access_rules_keep_events_token_apart() -> None:
    """With nothing but this token, the refusal of other requests says that no token is set."""
    assert Token("EVENTS_TOKEN", EVENTS, TokenKind.EVENTS).may_write is False
    servers = ("http://minio", "key", "secret", "redis://redis")
    rules = AccessRules.from_settings(Settings(*servers, api_token=WRITE, events_token=EVENTS))
    assert [token.value for token in rules.tokens] == [WRITE]
    assert rules.decide_events(f"Bearer {EVENTS}").outcome is AccessOutcome.ALLOWED
    assert rules.decide_events(f"Bearer {WRITE}").outcome is AccessOutcome.TOKEN_WRONG
    webhook = Webhook(AccessRules(allowed_hosts=("localhost",), events_token=EVENTS))
    answer = webhook.client.simulate_get("/data", headers={"Host": "localhost"})
    assert (answer.status_code, kind(answer)) == (403, "access-refused")
    assert "No token is set" in answer.json["detail"]


# -- limits ----------------------------------------------------------------------------------------
def test_events_route_refuses_too_large_body(webhook: Webhook) -> None:
    body = b'{"Records":[]' + b" " * (MAX_BODY_BYTES - 14) + b"}"
    assert len(body) == MAX_BODY_BYTES
    assert webhook.post(body).status_code == 202
    answer = webhook.post(body + b" ")
    assert (answer.status_code, answer.json["most_bytes"]) == (413, MAX_BODY_BYTES)


def test_events_route_refuses_too_many_events(webhook: Webhook) -> None:
    keys = [f"{number}.csv" for number in range(MAX_EVENTS + 1)]
    assert webhook.post(make_records(keys)).status_code == 413
    assert webhook.redis.entries == []
    assert webhook.post(make_records(keys[1:])).json["accepted"] == MAX_EVENTS


def test_events_route_asks_for_retry_while_list_is_full(webhook: Webhook) -> None:
    webhook.redis.waiting_count = MAX_WAITING_EVENTS
    answer = webhook.post(read_example("aws"))
    assert (answer.status_code, kind(answer)) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert webhook.redis.entries == []
    assert webhook.post(make_records(["1.csv"], "other")).status_code == 202
    webhook.redis.waiting_count = MAX_WAITING_EVENTS - 1
    assert webhook.post(read_example("aws")).status_code == 202


@pytest.mark.parametrize("error", [ConnectionError("refused"), NoPermissionError("no rpush")])
def test_events_route_asks_for_retry_in_outage(webhook: Webhook, error: RedisError) -> None:
    webhook.redis.error = error
    answer = webhook.post(read_example("aws"))
    assert (answer.status_code, kind(answer)) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_events_route_decodes_without_a_thread_for_redis() -> None:
    """Threads that wait may be many. Those that compute are few, so that they delay no client."""
    asyncio.run(send_events_while_redis_hangs())


async def send_events_while_redis_hangs() -> None:
    webhook = Webhook()
    is_over = threading.Event()
    hanging_call = asyncio.create_task(webhook.redis_pool.run(is_over.wait))
    await asyncio.sleep(0)  # until the call has the only thread
    sent = {"Host": "localhost", "Authorization": f"Bearer {EVENTS}"}
    async with ASGIConductor(webhook.client.app, sent) as conductor:

        async def send(body: bytes) -> int:
            answer: Result = await conductor.simulate_post("/events", body=body)
            return answer.status_code

        try:
            bodies = b"{}", make_records(["1.csv"], "other"), make_records(["1.csv"])
            statuses = [await send(body) for body in bodies]
        finally:
            is_over.set()
        assert statuses == [400, 202, 503]
        await hanging_call
        assert await send(make_records(["1.csv"])) == 202


@pytest.fixture(scope="module")
def shared_webhook() -> Iterator[Webhook]:
    yield Webhook()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | NEAR_NOTIFICATIONS.map(lambda value: json.dumps(value).encode()))
def test_events_route_answers_any_body(shared_webhook: Webhook, body: bytes) -> None:
    shared_webhook.redis.entries.clear()
    answer = shared_webhook.post(body)
    assert answer.status_code in {202, 400}
    assert len(shared_webhook.redis.keys) == answer.json.get("accepted", 0) <= MAX_EVENTS
