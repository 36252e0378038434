"""Requests of pages of other sites are refused unless their origin is allowed."""

from collections.abc import Iterator

import pytest
from falcon.testing import Result

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from tests.unit.test_api_routes import Service

APP = "https://app.example.org"
READABLE = AuthMiddleware(AccessRules(public_read=True))
"""Allows every read, so that only the guard under test refuses one."""


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    service = Service(READABLE, getattr(request, "param", CrossSiteMiddleware()))
    yield service
    service.redis.close()


def send_request(
    service: Service, method: str = "GET", host: str = "localhost", **headers: str
) -> Result:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return service.client.simulate_request(method, "/data", headers={"Host": host, **sent})


def parse_problem(result: Result) -> tuple[int, str]:
    return result.status_code, result.json["type"].removeprefix("/docs#")


# -- host names ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "localhost.", "rowdrop.localhost", "127.0.0.1",
        "127.0.0.1:8080", "192.0.2.7:80", "[::1]", "[::1]:8080", "[2001:db8::7]", "",
    ],
)  # fmt: skip
def test_cross_site_middleware_accepts_loopback_hosts(service: Service, host: str) -> None:
    assert send_request(service, host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "localhost.evil.example", "evillocalhost",
        "127.0.0.1.evil.example", "localhost:8080.evil.example", "localhost:x",
        "[::1].evil.example", "[evil]", "local host", "a,localhost", "127.1", "2130706433",
    ],
)  # fmt: skip
def test_cross_site_middleware_refuses_other_hosts(service: Service, host: str) -> None:
    assert parse_problem(send_request(service, host=host)) == (421, "about:blank")
    assert parse_problem(send_request(service, "POST", host=host)) == (421, "about:blank")


@pytest.mark.parametrize(
    "service", [CrossSiteMiddleware(["Rowdrop.example.org", "*.lab.example.org"])], indirect=True
)
def test_cross_site_middleware_accepts_only_allowed_hosts(service: Service) -> None:
    for host in (
        "rowdrop.example.org",
        "ROWDROP.example.org:8080",
        "a.lab.example.org",
        "a.b.lab.example.org",
    ):
        assert send_request(service, host=host).status_code == 200
    for host in ("example.org", "x.rowdrop.example.org", "lab.example.org", "xlab.example.org"):
        assert send_request(service, host=host).status_code == 421


@pytest.mark.parametrize("service", [CrossSiteMiddleware(["*"])], indirect=True)
def test_cross_site_middleware_star_accepts_every_host(service: Service) -> None:
    assert send_request(service, host="whatever.example").status_code == 200


# -- other sites -----------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "null"},
        {"Origin": "null"},
        {"Origin": APP},
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Site": "what is this"},
    ],
)
def test_cross_site_middleware_refuses_page_of_another_site(
    service: Service, method: str, headers: dict[str, str]
) -> None:
    result = send_request(service, method, **headers)
    assert result.status_code == 403
    assert "access-control-allow-origin" not in result.headers


def test_cross_site_middleware_refuses_writes_by_link_or_form(service: Service) -> None:
    form = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    assert parse_problem(send_request(service, "POST", **form)) == (403, "cross-site")
    assert send_request(service, "POST", Origin=APP, **form).status_code == 403


def test_cross_site_middleware_accepts_followed_link(service: Service) -> None:
    headers = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    assert send_request(service, **headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
        {"Origin": "http://localhost"},
    ],
)
def test_cross_site_middleware_accepts_own_pages_and_programs(
    service: Service, headers: dict[str, str]
) -> None:
    assert send_request(service, **headers).status_code == 200
    # The POST is accepted; then Redis is missing.
    assert send_request(service, "POST", **headers).status_code == 503


# -- CORS ------------------------------------------------------------------------------------------
ALLOWED = CrossSiteMiddleware(cors_origins=[APP])
ANY = CrossSiteMiddleware(cors_origins=["*"])


@pytest.mark.parametrize("service", [ALLOWED], indirect=True)
def test_cross_site_middleware_accepts_allowed_origin(service: Service) -> None:
    result = send_request(service, Origin=APP, Sec_Fetch_Site="cross-site")
    assert (result.status_code, result.headers["access-control-allow-origin"]) == (200, APP)
    assert "X-Total-Count" in result.headers["access-control-expose-headers"]
    assert "Origin" in result.headers["vary"]
    assert send_request(service, "POST", Origin=APP, Sec_Fetch_Site="cross-site").status_code == 503


@pytest.mark.parametrize("service", [ALLOWED], indirect=True)
def test_cross_site_middleware_refuses_similar_origins(service: Service) -> None:
    for origin in (
        APP + ":8443",
        "http://app.example.org",
        "https://app.example.org.evil.example",
        "null",
    ):
        assert send_request(service, Origin=origin, Sec_Fetch_Site="cross-site").status_code == 403
    assert "Origin" in send_request(service).headers["vary"]


@pytest.mark.parametrize("service", [ALLOWED], indirect=True)
def test_cross_site_middleware_answers_preflight_of_allowed_origin(service: Service) -> None:
    result = send_request(
        service,
        "OPTIONS",
        Origin=APP,
        Sec_Fetch_Site="cross-site",
        Access_Control_Request_Method="PUT",
    )
    assert (result.status_code, result.content) == (204, b"")
    assert "PUT" in result.headers["access-control-allow-methods"]
    assert "Authorization" in result.headers["access-control-allow-headers"]


@pytest.mark.parametrize("service", [ANY], indirect=True)
def test_cross_site_middleware_star_origin_allows_reads_only(service: Service) -> None:
    result = send_request(service, Origin=APP, Sec_Fetch_Site="cross-site")
    assert (result.status_code, result.headers["access-control-allow-origin"]) == (200, "*")
    assert send_request(service, "POST", Origin=APP, Sec_Fetch_Site="cross-site").status_code == 403
    preflight = send_request(service, "OPTIONS", Origin=APP, Access_Control_Request_Method="PUT")
    assert preflight.status_code == 403
    preflight = send_request(service, "OPTIONS", Origin=APP, Access_Control_Request_Method="GET")
    assert preflight.status_code == 204


@pytest.mark.parametrize("service", [ANY], indirect=True)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_cross_site_middleware_refuses_write_disguised_as_preflight(
    service: Service, method: str
) -> None:
    result = send_request(service, method, Origin=APP, Access_Control_Request_Method="GET")
    assert parse_problem(result) == (403, "cross-site")


@pytest.mark.parametrize("service", [CrossSiteMiddleware()], indirect=True)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cross_site_middleware_refuses_null_origin_without_host(
    service: Service, method: str
) -> None:
    result = send_request(service, method, host="", Origin="null")
    assert parse_problem(result) == (403, "cross-site")


# -- headers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/data", "/nowhere", "/data?wrong=1"])
def test_cross_site_middleware_sets_security_headers(service: Service, path: str) -> None:
    headers = service.client.simulate_get(path, headers={"Host": "localhost"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
