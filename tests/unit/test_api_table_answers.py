"""`api.answers.table_answers`: an equal head gets the same answer before the framework sees it."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest
from falcon.asgi import Request, Response
from falcon.testing import create_asgi_req

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.answers.table_answers import Answer, TableAnswers, repeat_answers
from api.query.filters import DAY_S
from api.snapshot.caches import MAX_CACHE_BYTES
from api.snapshot.table import EMPTY_TABLE, SnapshotTable
from api.snapshot.view import View
from api.web.connections import SMALL_BODY_BYTES, AsgiApp
from api.web.thread_pool import ThreadPool
from shared.formats.output_csv import OUTPUT_HEADER
from shared.tokens import Token, TokenKind
from tests.api_parts import ApiClient
from tests.unit.test_api_routes import Service

Message = dict[str, Any]
OUTPUT = OUTPUT_HEADER + b"0001,Ann,Lee,0,\n"
TOKEN = "a-read-token-that-is-long-enough"
HEAD = {
    "type": "http",
    "method": "GET",
    "path": "/data",
    "query_string": b"limit=1",
    "http_version": "1.1",
    "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer right")],
}


class CountingApp:
    """The framework: its answers have the number of its calls."""

    def __init__(self) -> None:
        self.status = 200
        self.calls = 0
        self.view = View(EMPTY_TABLE.build_next_version(OUTPUT, "e"))
        self.now = 0.0
        self.body = b""
        self.limited_calls = 0
        self.app = repeat_answers(self.answer, self.limit_app, lambda: self.view, lambda: self.now)

    def limit_app(self, app: AsgiApp) -> AsgiApp:
        """Return `app`, and count its calls."""

        async def limited_app(scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401
            self.limited_calls += 1
            await app(scope, receive, send)

        return limited_app

    async def answer(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.calls += 1
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.body or b"%d" % self.calls})

    def request(self, **changes: Any) -> bytes:  # noqa: ANN401
        """Return the body of the answer to `HEAD` with these changes."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        async def run() -> None:
            await self.app({**HEAD, **changes}, receive, send)

        asyncio.run(run())
        assert [message["type"] for message in sent] == [
            "http.response.start",
            "http.response.body",
        ]
        assert sent[0]["status"] == self.status
        body: bytes = sent[1]["body"]
        return body


@pytest.mark.parametrize("status", [200, 304])
def test_repeat_answers_gives_equal_head_same_answer(status: int) -> None:
    framework = CountingApp()
    framework.status = status
    assert [framework.request() for _ in range(3)] == [b"1", b"1", b"1"]
    assert framework.request(path="/stats") == b"2"
    assert framework.request(path="/stats") == b"2"


@pytest.mark.parametrize(
    "changes",
    [
        {"query_string": b"limit=2"},
        {"path": "/stats"},
        {"http_version": "1.0"},
        {"method": "HEAD"},
        {"headers": [(b"host", b"localhost"), (b"authorization", b"Bearer wrong")]},
        {"headers": [(b"host", b"localhost")]},
        {"headers": [*HEAD["headers"], (b"x-forwarded-for", b"192.0.2.1")]},
        {"headers": [*HEAD["headers"], (b"if-none-match", b'"e"')]},
    ],
    ids=str,
)
def test_repeat_answers_passes_on_any_other_head(changes: Message) -> None:
    framework = CountingApp()
    assert framework.request() == b"1"
    assert framework.request(**changes) == b"2"


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
def test_repeat_answers_never_repeats_errors(status: int) -> None:
    framework = CountingApp()
    framework.status = status
    assert [framework.request(), framework.request()] == [b"1", b"2"]


@pytest.mark.parametrize("path", ["/", "/data/0001", "/files/data", "/health/ready", "/tasks"])
def test_repeat_answers_passes_on_other_paths(path: str) -> None:
    framework = CountingApp()
    assert [framework.request(path=path), framework.request(path=path)] == [b"1", b"2"]


def test_repeat_answers_forgets_with_version_and_day() -> None:
    framework = CountingApp()
    assert framework.request() == b"1"
    framework.now = DAY_S - 1
    assert framework.request() == b"1"
    framework.now = DAY_S
    assert framework.request() == b"2"
    framework.view = View(EMPTY_TABLE.build_next_version(OUTPUT, "f"))
    assert framework.request() == b"3"
    framework.view = View()
    assert [framework.request(), framework.request()] == [b"4", b"5"]


def test_table_answers_share_concurrent_computation() -> None:
    table = EMPTY_TABLE.build_next_version(OUTPUT, "e")
    built = list[str]()

    def build(_: SnapshotTable, request: Request, today: date) -> Answer:
        built.append(request.query_string)
        time.sleep(0.01)
        return Answer("etag", (), b"body")

    async def run() -> None:
        answers = TableAnswers(lambda: View(table), lambda: 0.0, ThreadPool("threads", 2, 5.0))
        requests = [create_asgi_req(query_string=f"limit={each % 2}") for each in range(200)]
        responses = [Response() for _ in requests]
        pairs = zip(requests, responses, strict=True)
        first, *others = [asyncio.create_task(answers.respond(*pair, build)) for pair in pairs]
        await asyncio.sleep(0)
        first.cancel()  # its client leaves
        await asyncio.gather(*others)
        assert {response.data for response in responses[1:]} == {b"body"}

    asyncio.run(run())
    assert sorted(built) == ["limit=0", "limit=1"]


@pytest.mark.parametrize(("size", "calls"), [(SMALL_BODY_BYTES, 1), (SMALL_BODY_BYTES + 1, 3)])
def test_repeat_answers_sends_large_bodies_within_limits(size: int, calls: int) -> None:
    app = CountingApp()
    app.body = b"x" * size
    for _ in range(3):
        assert app.request() == app.body
    assert app.calls == 1
    assert app.limited_calls == calls


def test_repeat_answers_counts_heads_in_limit_of_cache() -> None:
    """Heads of 30 kB must not fill the memory, as far as the cache counts only answers."""
    framework = CountingApp()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(3 * MAX_CACHE_BYTES // 30_000):
            framework.request(headers=[(b"x", b"%d" % number + bytes(30_000))])
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used_bytes < 1.1 * MAX_CACHE_BYTES
    # The newest ones are cached.
    assert framework.request(headers=[(b"x", b"%d" % number + bytes(30_000))]) == b"%d" % (
        number + 1
    )


def test_table_answers_count_queries_in_limit_of_cache() -> None:
    service = Service()
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT, "e"))
    client = ApiClient(service.client.api, headers={"Host": "localhost"})
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(800):
            accept = f"application/json, x/{number}{'x' * 60_000}"
            assert client.simulate_get("/stats", headers={"Accept": accept}).status_code == 200
        gc.collect()
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    service.redis.close()
    assert used_bytes < 1.2 * MAX_CACHE_BYTES


def test_repeat_answers_keeps_access_rules() -> None:
    """A head that was allowed is repeated; others are still checked, in any order."""
    right = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}"}
    rules = AccessRules(bind_address="192.0.2.1", tokens=(Token("all", TOKEN, TokenKind.READ),))
    service = Service(AuthMiddleware(rules))
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT, "e"))
    app = repeat_answers(
        service.client.api, lambda app: app, lambda: service.view, lambda: service.now
    )
    client = ApiClient(app, headers={"Host": "localhost"})
    for _ in range(2):
        assert client.simulate_get("/stats").status_code == 401
        assert client.simulate_get("/stats", headers=right).status_code == 200
        wrong = {**right, "Authorization": f"Bearer {TOKEN}x"}
        assert client.simulate_get("/stats", headers=wrong).status_code == 401
        foreign = {**right, "Origin": "https://elsewhere.example"}
        assert client.simulate_get("/stats", headers=foreign).status_code == 403
    service.redis.close()
