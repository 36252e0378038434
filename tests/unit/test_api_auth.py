"""Tests of `api.access.auth` with the whole application: bypass attempts, delays and log lines."""

import asyncio
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from falcon.testing import ASGIConductor, Result, create_scope

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.access.failure_limiter import FAILURE_WINDOW_S, MAX_ADDRESSES, MAX_FAILURES, FailureLimiter
from api.description.openapi import PATHS
from shared.formats.records import Reject
from shared.tokens import Token, TokenKind
from tests.api_parts import ApiClient
from tests.unit.test_api_routes import Service

WRITE = "write-token-of-the-operator"
READ = "read-token-of-a-dashboard"
GENERATED = "generated-token-of-this-rowdrop"
TOKENS = (
    Token("ci", WRITE, TokenKind.WRITE),
    Token("dashboard", READ, TokenKind.READ),
    Token("generated", GENERATED, TokenKind.GENERATED),
)
NAME = "rowdrop.example.org"
PROXIED = {"Host": NAME, "X-Forwarded-For": "203.0.113.9", "Via": "1.1 nginx"}


class ManualClock:
    """A clock that advances only when something sleeps or when the test sets it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class ApiWithAuth:
    """The application with `AuthMiddleware`, and a clock of its own."""

    def __init__(self, rules: AccessRules) -> None:
        self.time = ManualClock()
        self.limiter = FailureLimiter(lambda: self.time.now, self.time.sleep)
        middleware = AuthMiddleware(rules, self.limiter)
        self.service = Service(middleware, CrossSiteMiddleware(rules.allowed_hosts))
        self.service.files.put("1.csv", b"before")
        self.client = ApiClient(self.service.client.app)

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Result:
        """Send a request as a local client, or with the given headers."""
        sent = {"Host": "localhost"} if headers is None else headers
        more = {"remote_addr": "127.0.0.1", **more}
        return self.client.simulate_request(method, path, headers=sent, **more)

    def send(
        self, authorization: str, method: str = "DELETE", path: str = "/files/no.csv"
    ) -> Result:
        return self.request(method, path, {"Host": "localhost", "Authorization": authorization})


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[ApiWithAuth]:
    rules = getattr(request, "param", AccessRules(tokens=TOKENS))
    api = ApiWithAuth(rules)
    yield api
    api.service.redis.close()


def kind(result: Result) -> str:
    assert result.headers["content-type"] == "application/problem+json"
    kind_url: str = result.json["type"]
    return kind_url.removeprefix("/docs#")


# -- behind a proxy --------------------------------------------------------------------------------
BEHIND_A_PROXY = [
    pytest.param(AccessRules(allowed_hosts=(NAME,)), 403, id="no token"),
    pytest.param(AccessRules(allowed_hosts=(NAME,), tokens=TOKENS[1:]), 401, id="generated"),
    pytest.param(AccessRules(allowed_hosts=(NAME,), tokens=TOKENS), 401, id="operator's"),
]


@pytest.mark.parametrize(("api", "status"), BEHIND_A_PROXY, indirect=["api"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_auth_middleware_refuses_proxied_write(api: ApiWithAuth, method: str, status: int) -> None:
    assert api.request(method, "/files/1.csv", PROXIED, body=b"after").status_code == status
    assert api.service.files.get("1.csv").body == b"before"
    assert api.request("GET", "/data", PROXIED).status_code == status
    assert api.request("GET", "/health/live", PROXIED).status_code == 200


@pytest.mark.parametrize("api", [AccessRules(tokens=TOKENS[1:])], indirect=True)
def test_auth_middleware_accepts_local_write_without_token(api: ApiWithAuth) -> None:
    assert api.request("PUT", "/files/1.csv", body=b"after").status_code == 202
    assert (
        api.request("PUT", "/files/1.csv", {"Host": "localhost", "Via": "1.1 x"}).status_code == 401
    )
    by_a_plain_proxy = api.request("PUT", "/files/1.csv", http_version="1.0", body=b"forged")
    assert by_a_plain_proxy.status_code == 401
    without_host = api.client.simulate_request("PUT", "/files/1.csv", http_version="1.0")
    assert without_host.status_code == 401


@pytest.mark.parametrize(
    ("api", "headers", "is_quoted"),
    [
        (AccessRules(), {"Host": "localhost"}, True),
        (AccessRules(public_read=True), {"Host": "localhost"}, True),
        (AccessRules(public_read=True, allowed_hosts=(NAME,)), {"Host": NAME}, False),
        (
            AccessRules(public_read=True, allowed_hosts=(NAME,), tokens=TOKENS),
            {"Host": NAME, "Authorization": f"Bearer {READ}"},
            True,
        ),
        (
            AccessRules(allowed_hosts=(NAME,), tokens=TOKENS),
            {"Host": NAME, "Authorization": f"Bearer {WRITE}"},
            True,
        ),
    ],
    indirect=["api"],
)
def test_errors_route_hides_quotes_from_the_public(
    api: ApiWithAuth, headers: dict[str, str], is_quoted: bool
) -> None:
    etag = api.service.files.put("payroll.csv", b"IBAN;Salary\n")
    reject = Reject("payroll.csv", "payroll", "missing columns", 1, 0, etag)
    api.service.view = replace(api.service.view, rejects={"payroll": reject})
    (error, *_) = api.request("GET", "/errors", headers).json
    assert error["reason"] == "missing columns"
    assert error.get("quote") == ("IBAN;Salary" if is_quoted else None)


# -- all routes ------------------------------------------------------------------------------------
OPERATIONS = [(method.upper(), path) for path, methods in PATHS.items() for method in methods]
OPERATIONS += [("HEAD", path) for method, path in OPERATIONS if method == "GET"]


@pytest.mark.parametrize("api", [AccessRules(allowed_hosts=(NAME,), tokens=TOKENS)], indirect=True)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_auth_middleware_requires_right_token_kind_per_route(
    api: ApiWithAuth, method: str, path: str
) -> None:
    address = re.sub(r"\{\w+\}", "1.csv", path)

    def status(token: str | None) -> int:
        sent = {"Host": NAME} | ({"Authorization": f"Bearer {token}"} if token else {})
        return api.request(method, address, sent).status_code

    if path == "/events":  # see test_auth_middleware_accepts_events_only_with_their_token
        assert [status(token) for token in (None, READ, WRITE, "wrong")] == [403] * 4
        return
    is_open = path == "/health/live" or path.startswith("/page/")
    is_write = method in {"POST", "PUT", "DELETE"}
    passes = {200, 202, 400, 404, 411, 503}
    assert status(None) in (passes if is_open else {401})
    assert status(READ) in ({403} if is_write else passes)
    assert status(WRITE) in passes
    assert status("wrong") in (passes if is_open else {401})


@pytest.mark.parametrize("api", [AccessRules(allowed_hosts=(NAME,))], indirect=True)
@pytest.mark.parametrize(
    "path", ["/health/live", "/health/live/", "/health/%6cive", "/%68ealth/live"]
)
def test_auth_middleware_opens_liveness_in_every_spelling(api: ApiWithAuth, path: str) -> None:
    result = api.request("GET", path, PROXIED)
    assert (result.status_code, result.json) == (200, {"live": True})


@pytest.mark.parametrize("api", [AccessRules(allowed_hosts=(NAME,))], indirect=True)
@pytest.mark.parametrize(
    "path",
    [
        "/data", "/%64ata", "//data", "/data/", "/health/live/../../data", "/health/live/x",
        "/data/health/live", "/health/live%2f..%2fdata", "/health/ready", "/health", "/metrics",
        "/files/health/live", "/stats", "/", "/docs", "/openapi.json", "/nowhere",
        "/changes", "/data/page/1", "/page", "/page/", "/x/../page/1/main.js",
    ],
)  # fmt: skip
def test_auth_middleware_opens_no_other_path(api: ApiWithAuth, path: str) -> None:
    assert api.request("GET", path, PROXIED).status_code == 403
    assert api.request("OPTIONS", path, PROXIED).status_code == 403


@pytest.mark.parametrize("api", [AccessRules(allowed_hosts=(NAME,))], indirect=True)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_auth_middleware_opens_liveness_for_reads_only(api: ApiWithAuth, method: str) -> None:
    assert api.request(method, "/health/live", PROXIED).status_code == 403


# -- bypass attempts -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param("", id="empty header"),
        pytest.param(WRITE, id="no scheme"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer ", id="empty token"),
        pytest.param(f"Bearer\t{WRITE}", id="tab"),
        pytest.param(f"Bearer \t{WRITE}", id="space and tab"),
        pytest.param(f"Bearer\xa0{WRITE}", id="no-break space"),
        pytest.param(f"Bearer \xa0{WRITE}", id="space and no-break space"),
        pytest.param(f"Bearer {WRITE[:-1]}", id="prefix"),
        pytest.param(f"Bearer {WRITE}x", id="longer"),
        pytest.param(f"Bearer {WRITE}%00", id="percent NUL"),
        pytest.param(f"Bearer {WRITE}\x00", id="NUL"),
        pytest.param(f"Bearer {WRITE.upper()}", id="upper case"),
        pytest.param(f"Bearer {WRITE}\xe9", id="latin-1"),
        pytest.param(f"Bearer ci={WRITE}", id="with its name"),
        pytest.param(f"Bearer x,Bearer {WRITE}", id="two headers, wrong and right"),
        pytest.param(f"Bearer {WRITE},Bearer x", id="two headers, right and wrong"),
        pytest.param(f"Basic {WRITE}", id="basic"),
        pytest.param(f"Digest {WRITE}", id="digest"),
        pytest.param(f"Token {WRITE}", id="another scheme"),
    ],
)
def test_auth_middleware_refuses_wrong_tokens(api: ApiWithAuth, authorization: str) -> None:
    """A wrong token is refused even for a local client's read, which needs no token."""
    for method in ("DELETE", "GET"):
        answer = api.send(authorization, method, "/files/1.csv")
        assert (answer.status_code, kind(answer)) == (401, "token")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer <token>" in answer.json["detail"]
    assert api.service.files.get("1.csv").body == b"before"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("DELETE", f"/files/1.csv?token={WRITE}", {}),
        ("DELETE", f"/files/1.csv?access_token={WRITE}", {}),
        ("DELETE", "/files/1.csv", {"Cookie": f"token={WRITE}"}),
        ("DELETE", "/files/1.csv", {"X-Api-Key": WRITE}),
        ("DELETE", "/files/1.csv", {"Proxy-Authorization": f"Bearer {WRITE}"}),
        ("DELETE", "/%66iles/1.csv", {}),
        ("DELETE", "//files/1.csv", {}),
        ("POST", "/data", {}),
        ("POST", "/data/", {}),
        ("POST", "/%64ata", {}),
        ("POST", "//data", {}),
        ("POST", "/data?wait=600", {}),
        ("PATCH", "/data", {}),
        ("TRACE", "/data", {}),
    ],
)
def test_auth_middleware_refuses_bypass_attempts(
    api: ApiWithAuth, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = api.request(method, path, {"Host": "localhost", **headers})
    assert answer.status_code == 401
    assert api.service.files.get("1.csv").body == b"before"


@pytest.mark.parametrize("method", ["CONNECT", "FOO", "PROPFIND", "get", "GET ", ""])
def test_auth_middleware_treats_unknown_method_as_write(api: ApiWithAuth, method: str) -> None:
    sent: list[dict[str, Any]] = []
    scope = create_scope("/data", host="localhost") | {"method": method}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app: Any = api.client.app
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/files/1.csv", {"X-HTTP-Method-Override": "DELETE"}),
        ("/files/1.csv", {"X-Method-Override": "DELETE"}),
        ("/files/1.csv?_method=DELETE", {}),
    ],
)
def test_auth_middleware_ignores_method_override_headers(
    api: ApiWithAuth, path: str, headers: dict[str, str]
) -> None:
    assert api.request("GET", path, {"Host": "localhost", **headers}).status_code in {200, 400}
    assert api.service.files.get("1.csv").body == b"before"


def test_auth_middleware_refuses_write_with_read_token(api: ApiWithAuth) -> None:
    answer = api.send(f"Bearer {READ}")
    assert (answer.status_code, kind(answer)) == (403, "access-refused")
    assert "for reading" in answer.json["detail"]


@pytest.mark.parametrize("api", [AccessRules("192.0.2.5")], indirect=True)
def test_auth_middleware_explains_refusal_without_tokens(api: ApiWithAuth) -> None:
    answer = api.request("PUT", "/files/1.csv")
    assert (answer.status_code, kind(answer)) == (403, "access-refused")
    assert "API_TOKEN" in answer.json["detail"]
    answer = api.request("GET", "/data")
    assert (answer.status_code, kind(answer)) == (403, "access-refused")
    assert "PUBLIC_READ" in answer.json["detail"]


REMOTE = AccessRules("192.0.2.5", tokens=TOKENS[1:])
GENERATED_ONLY = AccessRules(tokens=TOKENS[1:])


@pytest.mark.parametrize(
    ("api", "headers", "cause"),
    [
        (AccessRules(allowed_hosts=(NAME,), tokens=TOKENS), {}, "ALLOWED_HOSTS is set for this"),
        (AccessRules(allowed_hosts=(NAME,)), {"Host": NAME}, "ALLOWED_HOSTS is set for this"),
        (REMOTE, {}, "because BIND_ADDRESS is no loopback address"),
        (
            replace(REMOTE, allowed_hosts=(NAME,)),
            {},
            "because ALLOWED_HOSTS is set and BIND_ADDRESS is no loopback address",
        ),
        (GENERATED_ONLY, {"Host": "192.0.2.5"}, "because the header Host has no loopback name"),
        (GENERATED_ONLY, {"Via": "1.1 x"}, "because a header such as X-Forwarded-For shows"),
    ],
    indirect=["api"],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_auth_middleware_names_setting_that_requires_token(
    api: ApiWithAuth, headers: dict[str, str], cause: str, method: str
) -> None:
    answer = api.request(method, "/files/1.csv", {"Host": "localhost", **headers})
    assert answer.status_code in {401, 403}
    assert cause in answer.json["detail"]


def test_auth_middleware_names_no_setting_that_is_no_cause(api: ApiWithAuth) -> None:
    needed = "A write needs a token, because API_TOKEN or API_TOKENS is set"
    assert needed in api.request("DELETE", "/files/1.csv").json["detail"]
    detail = api.send("Bearer wrong", "GET", "/files/1.csv").json["detail"]
    assert "needs a token, because" not in detail


@pytest.mark.parametrize("api", [replace(REMOTE, public_read=True)], indirect=True)
def test_auth_middleware_explains_wrong_token_of_public_read(api: ApiWithAuth) -> None:
    assert "because" not in api.send("Bearer wrong", "GET", "/files/1.csv").json["detail"]
    assert "because BIND_ADDRESS" in api.send("Bearer wrong").json["detail"]


# -- wrong tokens ----------------------------------------------------------------------------------
def test_failure_limiter_delays_and_logs_wrong_tokens(
    api: ApiWithAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(50):
        assert api.send(f"Bearer guess-{number}").status_code == 401
        assert api.send(f"Bearer {WRITE}").status_code == 404  # a valid token is not delayed
    assert api.time.sleeps == [1.0] * (50 - MAX_FAILURES)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("10 failed tokens from 127.0.0.1 within 60 s")
    refusals = [each for each in caplog.messages if each.startswith("refused")]
    assert len(refusals) == MAX_FAILURES
    assert not any(text in caplog.text for text in ("guess-", WRITE, READ, GENERATED))


def test_failure_limiter_logs_each_minute_and_address(
    api: ApiWithAuth, caplog: pytest.LogCaptureFixture
) -> None:
    def send_wrong_token(address: str) -> None:
        sent = {"Host": "localhost", "Authorization": "Bearer guess"}
        api.request("DELETE", "/files/1.csv", sent, remote_addr=address)

    def list_warned_addresses() -> list[str]:
        lines = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        return [line.split()[4] for line in lines]

    for address in ("192.0.2.1", "192.0.2.2"):
        for _ in range(12):
            send_wrong_token(address)
    assert list_warned_addresses() == ["192.0.2.1", "192.0.2.2"]
    api.time.now += FAILURE_WINDOW_S
    api.time.sleeps.clear()
    for _ in range(10):
        send_wrong_token("192.0.2.1")
    assert api.time.sleeps == []
    assert list_warned_addresses() == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]


def test_failure_limiter_delays_one_request_at_a_time() -> None:
    asyncio.run(send_wrong_tokens_during_delay())


async def send_wrong_tokens_during_delay() -> None:
    is_sleeping = asyncio.Event()
    wake = asyncio.Event()

    async def sleep(_: float) -> None:
        is_sleeping.set()
        await wake.wait()

    limiter = FailureLimiter(lambda: 0.0, sleep)
    service = Service(AuthMiddleware(AccessRules(tokens=TOKENS), limiter))
    wrong_token = {"Authorization": "Bearer guess"}
    right = {"Authorization": f"Bearer {WRITE}"}
    async with ASGIConductor(service.client.app) as conductor:

        async def request(headers: dict[str, str]) -> Result:
            answer: Result = await conductor.simulate_delete("/files/1.csv", headers=headers)
            return answer

        for _ in range(MAX_FAILURES):
            assert (await request(wrong_token)).status_code == 401
        delayed = asyncio.create_task(request(wrong_token))
        await asyncio.wait_for(is_sleeping.wait(), 10)
        for _ in range(20):
            answer = await request(wrong_token)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert kind(answer) == "about:blank"
            assert (await request(right)).status_code == 404
        wake.set()
        assert (await delayed).status_code == 401
        is_sleeping.clear()
        # A delay slot is free again.
        assert (await request(wrong_token)).status_code == 401
        assert is_sleeping.is_set()
    service.redis.close()


def test_failure_limiter_limits_remembered_addresses() -> None:
    limiter = FailureLimiter(lambda: 0.0)
    for number in range(3 * MAX_ADDRESSES):
        limiter.count_failed_token(f"2001:db8::{number:x}")
        limiter.count_failed_token("2001:db8::busy")
    assert limiter.address_count == MAX_ADDRESSES
    assert limiter.count_failed_token("2001:db8::busy") == 3 * MAX_ADDRESSES + 1


# -- log lines -------------------------------------------------------------------------------------
def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("api", [AccessRules(tokens=TOKENS[1:])], indirect=True)
def test_auth_middleware_logs_each_write_with_token_name(
    api: ApiWithAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert api.request("PUT", "/files/2.csv", body=b"x").status_code == 202
    assert api.send(f"Bearer {GENERATED}", path="/files/2.csv").status_code == 202
    assert api.send(f"Bearer {GENERATED}").status_code == 404
    assert api.send(f"Bearer {READ}").status_code == 403
    assert api.request("GET", "/data?q=Ivan").status_code == 200
    sent = {"Host": "localhost", "Via": "x"}
    assert api.request("GET", "/data", sent).status_code == 401
    assert lines(caplog) == [
        ("INFO", "PUT /files/2.csv by local: 202"),
        ("INFO", "DELETE /files/2.csv by generated: 202"),
        ("INFO", "DELETE /files/no.csv by generated: 404"),
        (
            "INFO",
            "refused DELETE /files/no.csv from 127.0.0.1: the token is for reading (dashboard)",
        ),
        ("INFO", "refused GET /data from 127.0.0.1: no token was sent"),
    ]


def test_auth_middleware_logs_one_line_for_any_path(
    api: ApiWithAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = "/files/a%0a2026-01-01 INFO forged\x1b[31m%E2%80%A8.csv" + "x" * 1000
    assert api.request("DELETE", path).status_code == 401
    ((_, line),) = lines(caplog)
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 300


def test_failure_limiter_limits_refusals_in_log(
    api: ApiWithAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(100):
        assert api.request("POST", "/data").status_code == 401
    assert len(caplog.records) == MAX_FAILURES
    assert api.time.sleeps == []  # a missing token is not a guess
