"""The access rules: the complete decision table, without a server."""

import hmac
from itertools import product
from typing import NamedTuple

import pytest

from api.access.access_rules import (
    AccessOutcome,
    AccessRules,
    is_loopback_address,
    is_loopback_host,
    is_proxy_header,
)
from shared.settings import Settings
from shared.tokens import Token, TokenKind

WRITE = "write-token-of-the-operator"
READ = "read-token-of-a-dashboard"
GENERATED = "generated-token-of-this-rowdrop"
STATUS = {
    AccessOutcome.ALLOWED: 200,
    AccessOutcome.TOKEN_MISSING: 401,
    AccessOutcome.TOKEN_WRONG: 401,
    AccessOutcome.TOKEN_READ_ONLY: 403,
    AccessOutcome.NO_TOKEN_SET: 403,
}


def settings(**given: object) -> Settings:
    servers = {
        "minio_endpoint": "",
        "minio_access_key": "",
        "minio_secret_key": "",
        "redis_url": "",
    }
    return Settings(**servers, **given)  # type: ignore[arg-type]


class Tokens(NamedTuple):
    """Configured tokens, the credentials that a client sends, and the expected HTTP statuses."""

    api_token: str
    read_token: str
    generated: str
    authorization: str | None
    local_read: int
    local_write: int
    other_read: int
    other_write: int
    public_read: int

    def settings(self) -> dict[str, object]:
        read = (Token("dashboard", self.read_token, TokenKind.READ),) if self.read_token else ()
        return {
            "api_token": self.api_token,
            "read_tokens": read,
            "generated_api_token": self.generated,
        }


BEARER_WRITE = f"Bearer {WRITE}"
BEARER_READ = f"Bearer {READ}"
BEARER_GENERATED = f"Bearer {GENERATED}"
BEARER_WRONG = f"Bearer {WRITE}x"

# fmt: off
TABLE = {
    # configured: write, read, generated; sent     local: read, write; remote: read, write; public
    "none":              Tokens("", "", "", None,                        200, 200, 403, 403, 200),
    "generated":         Tokens("", "", GENERATED, None,                 200, 200, 401, 401, 200),
    "read only":         Tokens("", READ, "", None,                      200, 200, 401, 403, 200),
    "write":             Tokens(WRITE, "", "", None,                     200, 401, 401, 401, 200),
    "write, generated":  Tokens(WRITE, "", GENERATED, None,              200, 401, 401, 401, 200),
    "right write":       Tokens(WRITE, READ, GENERATED, BEARER_WRITE,    200, 200, 200, 200, 200),
    "right generated":   Tokens("", READ, GENERATED, BEARER_GENERATED,   200, 200, 200, 200, 200),
    "right, both set":   Tokens(WRITE, "", GENERATED, BEARER_GENERATED,  200, 200, 200, 200, 200),
    "right read":        Tokens(WRITE, READ, "", BEARER_READ,            200, 403, 200, 403, 200),
    "wrong":             Tokens(WRITE, READ, GENERATED, BEARER_WRONG,    401, 401, 401, 401, 401),
    "wrong, generated":  Tokens("", "", GENERATED, BEARER_WRONG,         401, 401, 401, 401, 401),
    "wrong, none set":   Tokens("", "", "", BEARER_WRONG,                401, 401, 403, 403, 401),
}
# fmt: on
BIND_ADDRESSES = ["127.0.0.1", "::1", "0.0.0.0", "192.0.2.5"]  # noqa: S104
ALLOWED_HOSTS: list[tuple[str, ...]] = [(), ("rowdrop.example.org",)]
HOSTS = [
    "127.0.0.1:8080",
    "localhost",
    "[::1]:8080",
    "rowdrop.example.org",
    "192.0.2.5",
    None,
    "127.0.0.1.evil.example",
]
FORWARDING = [None, "X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"]
METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "PROPFIND"]

IS_LOCAL = {
    (bind, (), host, None)
    for bind in ("127.0.0.1", "::1")
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080")
}
"""The combinations of bind address, allowed hosts, host and forwarding header that are local."""


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("public_read", [False, True])
def test_access_rules_follow_decision_table(name: str, public_read: bool) -> None:
    tokens = TABLE[name]
    differences = []
    for bind, allowed, host, forwarding, method in product(
        BIND_ADDRESSES, ALLOWED_HOSTS, HOSTS, FORWARDING, METHODS
    ):
        rules = AccessRules.from_settings(
            settings(
                bind_address=bind,
                allowed_hosts=allowed,
                public_read=public_read,
                **tokens.settings(),
            )
        )
        headers = ["HOST", "ACCEPT", *([forwarding] if forwarding else [])]
        actual = STATUS[rules.decide(method, host, headers, tokens.authorization).outcome]
        is_local = (bind, allowed, host, forwarding) in IS_LOCAL
        if method in {"GET", "HEAD", "OPTIONS"}:
            expected = tokens.local_read if is_local else tokens.other_read
            if public_read and not is_local:
                expected = tokens.public_read
        else:
            expected = tokens.local_write if is_local else tokens.other_write
        if actual != expected:
            differences.append((bind, allowed, host, forwarding, method, actual, expected))
    assert differences == []


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "localhost.", "localhost.:80", "a.localhost", "127.0.0.1",
        "127.8.9.1:1", "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]",
    ],
)  # fmt: skip
def test_is_loopback_host_accepts_local_names(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example", "127.1",
        "2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.1:x", "127.0.0.1@evil.example",
        "evil.example@127.0.0.1", "evil.example,localhost", "evil.example,a.localhost",
        "localhost localhost", "localhost/", "http://localhost", "[::1].evil.example",
        "[::ffff:127.0.0.1]", "::1", "[::]", "0.0.0.0", "10.0.0.1", "192.168.1.1:8080",  # noqa: S104
        "[fe80::1]", "localhost..", "\xb9\xb27.0.0.1", "local\tost", "localhost\n", "127.0.0.1\xa0",
    ],
)  # fmt: skip
def test_is_loopback_host_refuses_other_names(host: str) -> None:
    assert not is_loopback_host(host)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "[::1]"])
def test_is_loopback_address_accepts_local_addresses(address: str) -> None:
    assert is_loopback_address(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "192.0.2.1", "[::]", "::", "10.0.0.1", "::ffff:127.0.0.1", "x"],  # noqa: S104
)
def test_is_loopback_address_refuses_other_addresses(address: str) -> None:
    assert not is_loopback_address(address)


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded", "FORWARDED", "Via", "X-Forwarded-For", "X_FORWARDED_FOR", "X-Forwarded-Host",
        "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded", "Forwarded-For",
        "X-Original-Forwarded-For", "X-Original-Host", "X-Real-IP", "CF-Connecting-IP",
        "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP",
        "X-ProxyUser-Ip", "X-Azure-ClientIP", "CDN-Loop",
    ],
)  # fmt: skip
def test_is_proxy_header_detects_proxy_headers(name: str) -> None:
    assert is_proxy_header(name)
    rules = AccessRules()
    assert not rules.is_local("localhost", ["HOST", name.upper()], "HTTP/1.1")


@pytest.mark.parametrize(
    "name",
    [
        "Host", "Accept", "Accept-Encoding", "Origin", "Referer", "User-Agent", "Authorization",
        "If-None-Match", "Range", "Cookie", "Connection", "Content-Type", "Sec-Fetch-Site",
        "X-Requested-With", "Traceparent",
    ],
)  # fmt: skip
def test_is_proxy_header_ignores_client_headers(name: str) -> None:
    assert not is_proxy_header(name)


@pytest.mark.parametrize(
    ("authorization", "actor"),
    [
        (f"Bearer {WRITE}", "API_TOKEN"),
        (f"bearer   {WRITE}  ", "API_TOKEN"),
        (f"Bearer {GENERATED}", "generated"),
        (f"Bearer {READ}", "dashboard"),
    ],
)
def test_access_rules_decision_names_token(authorization: str, actor: str) -> None:
    tokens = Tokens(WRITE, READ, GENERATED, None, 0, 0, 0, 0, 0)
    rules = AccessRules.from_settings(settings(**tokens.settings()))
    assert rules.decide("GET", None, [], authorization).actor == actor


def test_access_rules_compare_every_token() -> None:
    compared: list[bytes] = []

    def equal(token: bytes, sent: bytes) -> bool:
        compared.append(token)
        return hmac.compare_digest(token, sent)

    names = ("first", "second", "third")
    tokens = tuple(Token(name, f"{name}-token-that-is-long", TokenKind.WRITE) for name in names)
    rules = AccessRules(tokens=tokens, compare_tokens=equal)
    for token in tokens:
        compared.clear()
        decision = rules.decide("PUT", None, [], f"Bearer {token.value}")
        assert decision == (AccessOutcome.ALLOWED, token.name)
        assert compared == [each.value.encode() for each in tokens]


def test_access_rules_compare_tokens_in_constant_time() -> None:
    assert AccessRules().compare_tokens is hmac.compare_digest


@pytest.mark.parametrize("text", ["\x00", "\xe9", "ÿ" * 30, "\ud800", "☃", "?" * 20, "a" * 100_000])
def test_access_rules_treat_malformed_header_as_wrong_token(text: str) -> None:
    rules = AccessRules(tokens=(Token("API_TOKEN", WRITE, TokenKind.WRITE),))
    for authorization in (text, f"Bearer {text}", f"Bearer {WRITE}{text}", f"{text} {WRITE}"):
        assert (
            rules.decide("PUT", "localhost", [], authorization).outcome is AccessOutcome.TOKEN_WRONG
        )


# -- warnings at the start -------------------------------------------------------------------------
OUTSIDE: list[dict[str, object]] = [
    {"bind_address": "0.0.0.0"},  # noqa: S104
    {"allowed_hosts": ("rowdrop.example.org",)},
]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_access_rules_warn_once_without_token(outside: dict[str, object]) -> None:
    (line,) = AccessRules.from_settings(settings(**outside)).list_warnings()
    assert "every write and every read except /health/live is refused" in line
    assert "Set API_TOKEN" in line
    with_read_token = settings(**outside, read_tokens=(Token("dashboard", READ, TokenKind.READ),))
    (line,) = AccessRules.from_settings(with_read_token).list_warnings()
    assert "every write is refused" in line


@pytest.mark.parametrize("outside", OUTSIDE)
def test_access_rules_do_not_warn_with_token(outside: dict[str, object]) -> None:
    for given in ({"generated_api_token": GENERATED}, {"api_token": WRITE}):
        assert AccessRules.from_settings(settings(**outside, **given)).list_warnings() == []


@pytest.mark.parametrize("outside", OUTSIDE)
def test_access_rules_warn_of_public_reads_from_outside(outside: dict[str, object]) -> None:
    rules = AccessRules.from_settings(
        settings(**outside, public_read=True, generated_api_token=GENERATED)
    )
    (line,) = rules.list_warnings()
    assert "PUBLIC_READ is true" in line


def test_access_rules_do_not_warn_for_local_access() -> None:
    assert AccessRules.from_settings(settings(public_read=True)).list_warnings() == []
    assert AccessRules.from_settings(settings()).list_warnings() == []
