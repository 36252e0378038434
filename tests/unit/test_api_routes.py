"""The answers of each route for a fixed view, while Redis is unavailable."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from falcon.testing import DEFAULT_HOST, Result
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.resources.errors import MAX_LISTED_ERRORS
from api.snapshot.table import EMPTY_TABLE
from api.snapshot.view import View
from local.ports import find_free_port
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.records import Reject
from shared.progress.pipeline_errors import MAX_QUOTES, REMEDIES
from shared.progress.pipeline_status import PipelineIssue, PipelineStatus
from tests.api_parts import ApiClient, make_dependencies
from tests.fakes import FakeObjectStore

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()
OUTPUT = OUTPUT_HEADER + (
    b"0001,Ivan,Ivanov,946674000000,\n"  # 1999-12-31: 26 years old
    b"0002,Zo\xc3\xab,,1150329600000,src-data/0002.png\n"  # 2006-06-15: 20 today
    b"0003,Ann,Lee,-1,src-data/0003.jpg\n"  # 1969-12-31: 56
)
PIPELINE_STATUS = PipelineStatus(
    ignored_keys=(PipelineIssue("1.CSV", "rename it", 0),),
    ignored_count=300,
    dead_letters=(PipelineIssue(None, "not JSON", 60),),
    dirty_counts={"event": 0, "sweep": 0, "rebuild": 0},
    oldest_event_mark_at=None,
    last_publish_at=NOON,
    last_sweep_at=NOON,
    trust_state="verified",
    detects_losses=True,
)
REJECTS = {
    user_id: Reject(f"{user_id}.csv", user_id, "birthts: not a number", 2, 1767225600, "e")
    for user_id in ("0003", "0009")
}
VIEW = View(
    EMPTY_TABLE.build_next_version(OUTPUT, "etag-1"),
    REJECTS,
    PIPELINE_STATUS,
    store_polled_at=NOON,
    redis_answered_at=NOON,
)

EVENTS_TOKEN = "token-for-the-events-only"
OPEN = AuthMiddleware(AccessRules(events_token=EVENTS_TOKEN))
NAMED = CrossSiteMiddleware([DEFAULT_HOST])
LOCAL = {"Host": "localhost"}


class Service:
    """The application; tests set its view and its clock as plain attributes."""

    def __init__(
        self, auth: AuthMiddleware = OPEN, cross_site: CrossSiteMiddleware = NAMED
    ) -> None:
        self.view = VIEW
        self.now = NOON
        self.redis = Redis(port=find_free_port(), retry=Retry(NoBackoff(), 0))
        self.files = FakeObjectStore("src-data", lambda: self.now)
        self.copies = FakeObjectStore("processed-data", lambda: self.now)
        dependencies = make_dependencies(
            self.redis, lambda: self.view, self.files, self.copies, clock=lambda: self.now
        )
        app = create_app(dependencies, cross_site, auth, lambda: self.now)
        self.client = ApiClient(app, headers=LOCAL)

    def get(self, path: str, **headers: str) -> Result:
        return self.client.simulate_get(
            path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


def ids(result: Result) -> list[str]:
    assert result.status_code == 200
    return [row["user_id"] for row in result.json]


def test_data_route_returns_array_of_users(service: Service) -> None:
    result = service.get("/data")
    assert result.headers["content-type"] == "application/json"
    assert result.json[:2] == [
        {
            "user_id": "0001",
            "first_name": "Ivan",
            "last_name": "Ivanov",
            "birthts": 946674000000,
            "img_path": None,
        },
        {
            "user_id": "0002",
            "first_name": "Zoë",
            "last_name": "",
            "birthts": 1150329600000,
            "img_path": "src-data/0002.png",
        },
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("is_image_exists=True", ["0002", "0003"]),
        ("is_image_exists=0", ["0001"]),
        ("min_age=20", ["0001", "0002", "0003"]),
        ("min_age=21", ["0001", "0003"]),
        ("max_age=26", ["0001", "0002"]),
        ("max_age=25", ["0002"]),
        ("min_age=21&max_age=30&is_image_exists=false", ["0001"]),
        ("min_age=30&max_age=20", []),
    ],
)
def test_data_route_applies_filters(service: Service, query: str, expected: list[str]) -> None:
    assert ids(service.get(f"/data?{query}")) == expected
    assert ids(service.get(f"/data?{query}")) == expected  # the second answer comes from the cache


def test_data_route_ages_follow_current_date(service: Service) -> None:
    assert ids(service.get("/data?max_age=19")) == []
    service.now = NOON - 86400
    assert ids(service.get("/data?max_age=19")) == ["0002"]


def test_stats_route_returns_count_and_means(service: Service) -> None:
    assert service.get("/stats").json == {
        "count": 3,
        "average_age": 34.0,
        "average_birthts": round((946674000000 + 1150329600000 - 1) / 3),
        "filters": {},
    }


def test_stats_route_names_filters_and_rounds(service: Service) -> None:
    stats = service.get("/stats?min_age=0&is_image_exists=TRUE").json
    assert stats["filters"] == {"min_age": 0, "is_image_exists": True}
    service.now = datetime(2026, 6, 14, tzinfo=UTC).timestamp()
    assert service.get("/stats").json["average_age"] == 33.67


def test_stats_route_searches_as_data_does(service: Service) -> None:
    for search in ("lee", "LEE ann", "nobody"):
        for query in (f"q={search}", f"q={search}&min_age=20", f"q={search}&is_image_exists=true"):
            stats = service.get(f"/stats?{query}").json
            assert stats["count"] == len(service.get(f"/data?{query}").json)
            assert stats["filters"]["q"] == search
    assert service.get("/stats?q=lee").json["count"] not in {0, 3}
    etags = {service.get(f"/stats{query}").headers["etag"] for query in ("", "?q=a", "?q=b")}
    assert len(etags) == 3


def test_stats_route_of_no_rows_has_nulls_and_message(service: Service) -> None:
    assert service.get("/stats?min_age=200").json == {
        "count": 0,
        "average_age": None,
        "average_birthts": None,
        "filters": {"min_age": 200},
        "message": "Filter returned no objects",
    }


def test_stats_route_mean_birth_date_is_exact(service: Service) -> None:
    last = 253402300799999
    rows = b"".join(b"%06d,,,%d,\n" % (n, last) for n in range(40_000))
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT_HEADER + rows, "e"))
    assert service.get("/stats").json["average_birthts"] == last


@pytest.mark.parametrize(
    "path", ["/data", "/stats", "/errors", "/health/live", "/health/ready", "/metrics", "/"]
)
def test_routes_ignore_trailing_slash(service: Service, path: str) -> None:
    assert service.get(path.rstrip("/") + "/").content == service.get(path).content


@pytest.mark.parametrize(
    "path", ["/data", "/data?min_age=21", "/data/0001", "/stats", "/errors", "/health/live", "/"]
)
def test_routes_answer_head_like_get(service: Service, path: str) -> None:
    head = service.client.simulate_head(path)
    get = service.get(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers == get.headers


@pytest.mark.parametrize("path", ["/data", "/stats"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*", '"a,b" ,W/{}'])
def test_routes_answer_304_for_known_etag(service: Service, path: str, form: str) -> None:
    etag = service.get(path).headers["etag"]
    assert not etag.startswith("W/")
    result = service.get(path, If_None_Match=form.format(etag))
    assert (result.status_code, result.content, result.headers["etag"]) == (304, b"", etag)


def test_routes_answer_fully_for_another_etag(service: Service) -> None:
    assert service.get("/data", If_None_Match='"other"').status_code == 200


def etags(service: Service) -> dict[str, str]:
    paths = (
        "/data",
        "/data?is_image_exists=1",
        "/data?min_age=1",
        "/data?max_age=1",
        "/stats",
        "/stats?min_age=1",
    )
    return {path: service.get(path).headers["etag"] for path in paths}


def test_etags_differ_by_route_and_filter(service: Service) -> None:
    etag_by_path = etags(service)
    assert len(set(etag_by_path.values())) == len(etag_by_path)
    etag = service.get("/data?is_image_exists=TRUE").headers["etag"]
    assert etag == etag_by_path["/data?is_image_exists=1"]


def test_etags_change_with_table_version(service: Service) -> None:
    before = etags(service)
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT, "etag-2"))
    assert not set(before.values()) & set(etags(service).values())


def test_etags_change_with_date_only_for_ages(service: Service) -> None:
    before = etags(service)
    service.now += 86400
    after = etags(service)
    unchanged = {path for path in before if before[path] == after[path]}
    assert unchanged == {"/data", "/data?is_image_exists=1"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data?min_age=old", "min_age"),
        ("/data?sort=age", "sort"),
        ("/data?order=age", "order"),
        ("/data?min_age=1&min_age=2", "min_age"),
        ("/stats?max_age=", "max_age"),
        ("/stats?is_image_exists=yes", "is_image_exists"),
        ("/stats?q=", "q"),
        ("/stats?sort=user_id", "sort"),
        ("/errors?kind=held", "kind"),
        ("/tasks/1?wait=1", "wait"),
    ],
)
def test_routes_name_invalid_parameter_in_400(service: Service, path: str, name: str) -> None:
    result = service.get(path)
    assert result.status_code == 400
    assert result.json["parameter"] == name
    assert name in result.json["detail"]
    assert result.json["allowed"]


@pytest.mark.parametrize("wait", ["601", "-1", "1.5", "", "x", "٣", "0000"])
def test_post_data_invalid_wait_is_400(service: Service, wait: str) -> None:
    result = service.client.simulate_post("/data", params={"wait": wait})
    assert result.status_code == 400
    assert (result.json["parameter"], "from 0 to 600" in result.json["allowed"]) == ("wait", True)


@pytest.mark.parametrize("path", ["/data", "/stats", "/errors", "/data?min_age=3"])
def test_routes_return_503_before_first_publish(service: Service, path: str) -> None:
    service.view = View(pipeline_status=PIPELINE_STATUS)
    result = service.get(path)
    assert result.status_code == 503
    assert int(result.headers["retry-after"]) > 0
    assert result.json["type"] == "/docs#unavailable"
    assert "No output.csv has been read so far" in result.json["detail"]


def test_data_route_of_empty_output_is_empty_array(service: Service) -> None:
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT_HEADER, "e"))
    assert service.get("/data").json == []
    assert service.get("/stats").json["count"] == 0


def test_errors_route_lists_all_kinds_of_errors(service: Service) -> None:
    result = service.get("/errors")
    errors = [dict(error) for error in result.json]
    assert [error.pop("remedy") for error in errors] == [
        REMEDIES[error["kind"]] for error in errors
    ]
    reject: dict[str, Any] = {
        "reason": "birthts: not a number",
        "line": 2,
        "since": "2026-01-01T00:00:00Z",
    }
    other: dict[str, Any] = {"user_id": None, "line": None}
    assert errors == [
        {"key": "0003.csv", "user_id": "0003", "kind": "held", "file": "/files/0003.csv"} | reject,
        {"key": "0009.csv", "user_id": "0009", "kind": "rejected", "file": "/files/0009.csv"}
        | reject,
        {
            "key": "0003.csv",
            "user_id": "0003",
            "kind": "suspicious",
            "reason": "born 1969-12-31: are these days, as spreadsheets count them? If so, "
            "replace the file by one with milliseconds since 1970; if not, keep it",
            "line": None,
            "since": None,
            "file": "/files/0003.csv",
        },
        {
            "key": "1.CSV",
            "kind": "ignored",
            "reason": "rename it",
            "since": "1970-01-01T00:00:00Z",
            "file": "/files/1.CSV",
        }
        | other,
        {
            "key": None,
            "kind": "dead_letter",
            "reason": "not JSON",
            "since": "1970-01-01T00:01:00Z",
            "file": None,
        }
        | other,
    ]
    assert (result.headers["x-total-count"], result.headers["x-ignored-count"]) == ("5", "300")


def test_errors_route_lists_rejected_bundle_without_user(service: Service) -> None:
    service.view = View(
        EMPTY_TABLE, rejects={"/u.zip": Reject("u.zip", "/u.zip", "it is encrypted", None, 0, "e")}
    )
    (error,) = service.get("/errors").json
    assert (error["key"], error["user_id"], error["kind"]) == ("u.zip", None, "rejected")


def reject_payroll(service: Service) -> None:
    """Drop a file of another system, and make the view list it as a reject."""
    body = b"IBAN;Salary\nDE89370400440532013000;81000\n"
    etag = service.files.put("payroll.csv", body)
    reject = Reject("payroll.csv", "payroll", "missing columns", 1, 0, etag)
    service.view = replace(VIEW, rejects={"payroll": reject})


def test_errors_route_quotes_line_for_local_client(service: Service) -> None:
    reject_payroll(service)
    error = service.get("/errors").json[0]
    assert (error["reason"], error["quote"]) == ("missing columns", "IBAN;Salary")


@pytest.mark.parametrize("change", ["changed", "deleted", "unreadable", "unavailable", "no line"])
def test_errors_route_has_no_quote_of_other_file(service: Service, change: str) -> None:
    reject_payroll(service)
    match change:
        case "changed":
            service.files.put("payroll.csv", b"other")
        case "deleted":
            service.files.delete("payroll.csv")
        case "unreadable":
            service.files.unreadable_keys.add("payroll.csv")
        case "unavailable":
            service.view = replace(service.view, store_error="MinIO does not answer")
        case "no line":
            reject = replace(service.view.rejects["payroll"], line=None)
            service.view = replace(service.view, rejects={"payroll": reject})
    error = service.get("/errors").json[0]
    assert (error["key"], "quote" in error) == ("payroll.csv", False)


def test_errors_route_quotes_first_entries_only(service: Service) -> None:
    users = [f"{number:04}" for number in range(MAX_QUOTES + 5)]
    etags = {user: service.files.put(f"{user}.csv", user.encode()) for user in users}
    rejects = {user: Reject(f"{user}.csv", user, "bad", 1, 0, etags[user]) for user in users}
    service.view = View(EMPTY_TABLE, rejects=rejects)
    errors = service.get("/errors").json
    assert [error.get("quote") for error in errors] == users[:MAX_QUOTES] + [None] * 5


def test_data_route_problem_of_rejected_user_has_no_quote(service: Service) -> None:
    reject_payroll(service)
    problem = service.get("/data/payroll")
    assert (problem.status_code, "missing columns" in problem.text) == (404, True)
    assert "IBAN" not in problem.text


def test_errors_route_returns_pages(service: Service) -> None:
    result = service.get("/errors?limit=1&offset=1")
    assert [error["key"] for error in result.json] == ["0009.csv"]
    assert result.headers["x-total-count"] == "5"
    assert '</errors?limit=1&offset=2>; rel="next"' in result.headers["link"]


class CountingRejects(dict[str, Reject]):
    """Rejects that count how often they are listed or looked up."""

    read_count = 0

    def __iter__(self) -> Iterator[str]:
        self.read_count += 1
        return super().__iter__()

    def values(self) -> Any:  # noqa: ANN401
        self.read_count += 1
        return super().values()

    def __getitem__(self, key: str) -> Reject:
        self.read_count += 1
        return super().__getitem__(key)


def test_rejects_are_compared_once_per_version(service: Service) -> None:
    """Health and errors cost the same with 100,000 rejects as with none."""
    user_ids = ["0003", *(f"x{number:06}" for number in range(100_000))]
    rejects = CountingRejects(
        {user_id: Reject(f"{user_id}.csv", user_id, "why", 2, 0, "e") for user_id in user_ids}
    )
    service.view = replace(VIEW, rejects=rejects)
    health = service.get("/health/ready").json
    assert (health["rejected"], health["held"]) == (100_000, 1)
    assert service.get("/errors?limit=1").json[0]["kind"] == "held"
    rejects.read_count = 0
    # Each poll replaces the view.
    service.view = replace(service.view, store_polled_at=NOON, redis_answered_at=NOON)
    assert service.get("/health/ready").json["held"] == 1
    result = service.get("/errors?limit=2&offset=99999")
    assert [error["user_id"] for error in result.json] == ["x099998", "x099999"]
    assert result.headers["x-total-count"] == "100004"
    assert rejects.read_count == 0
    # Another version of the table is compared again.
    service.view = replace(service.view, table=EMPTY_TABLE)
    assert service.get("/health/ready").json["held"] == 0
    assert rejects.read_count > 0


def test_errors_route_limits_page_without_limit(service: Service) -> None:
    count = MAX_LISTED_ERRORS + 7
    rejects = {
        f"x{number:06}": Reject("k", f"x{number:06}", "why", None, 0, "e")
        for number in range(count)
    }
    service.view = replace(VIEW, rejects=rejects)
    for query in ("", "?limit=999999"):
        result = service.get(f"/errors{query}")
        assert len(result.json) == MAX_LISTED_ERRORS
        assert f"offset={MAX_LISTED_ERRORS}" in result.headers["link"]
    result = service.get(f"/errors?offset={MAX_LISTED_ERRORS}")
    kinds = [error["kind"] for error in result.json[6:]]
    assert kinds == ["rejected", "suspicious", "ignored", "dead_letter"]
    assert service.get("/errors?limit=0").json == []


def test_suspicious_rows_are_found_once_on_demand(service: Service) -> None:
    """Health and errors cost the same if every one of 100,000 rows is suspicious."""
    count = 100_000
    lines = [f"{number:06},A,B,{946_684_801 + number},\n" for number in range(count)]
    table = EMPTY_TABLE.build_next_version(OUTPUT_HEADER + "".join(lines).encode(), "etag-2")
    service.view = replace(VIEW, table=table, rejects={})
    # A drop makes a new table each time: other requests do not pay for it.
    assert [service.get(path).status_code for path in ("/data?limit=1", "/stats")] == [200, 200]
    assert not table.has_found_suspicious_rows
    health = service.get("/health/ready").json
    assert (health["suspicious"], len(health["warnings"])) == (count, 1)
    found = table.suspicious_rows
    result = service.get(f"/errors?limit=2&offset={count - 1}")
    assert [error["kind"] for error in result.json] == ["suspicious", "ignored"]
    assert result.json[0]["file"] == "/files/099999.csv"
    assert result.headers["x-total-count"] == str(count + 2)
    # Each poll replaces the view, and keeps the table.
    service.view = replace(service.view, store_polled_at=NOON)
    assert service.get("/health/ready").json["suspicious"] == count
    assert service.view.table is table
    assert table.suspicious_rows is found
    service.view = replace(service.view, table=EMPTY_TABLE)
    health = service.get("/health/ready").json
    assert (health["suspicious"], health["warnings"]) == (0, [])


def test_errors_route_links_look_alikes_by_their_bytes(service: Service) -> None:
    lines = "Jose\u0301,A,B,0,\nJos\u00e9,A,B,0,\n".encode()
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT_HEADER + lines, "e"))
    errors = service.get("/errors").json
    assert [(error["kind"], error["file"]) for error in errors] == [
        ("suspicious", "/files/Jose%CC%81.csv"),
        ("suspicious", "/files/Jos%C3%A9.csv"),
    ]
    assert all("different Unicode form" in error["reason"] for error in errors)


def test_errors_route_links_no_file_of_bundle_member(service: Service) -> None:
    rejects = {
        "7": Reject("u.zip#a/7.csv", "7", "why", 1, 0, "e"),
        "/v.zip": Reject("v.zip", "/v.zip", "why", None, 0, "e"),
    }
    service.view = View(EMPTY_TABLE, rejects)
    assert [error["file"] for error in service.get("/errors").json] == [None, "/files/v.zip"]


def test_errors_route_quotes_no_line_for_suspicious_row(service: Service) -> None:
    """A held row may be suspicious: the quoted line is that of the reject."""
    reject_payroll(service)
    table = EMPTY_TABLE.build_next_version(OUTPUT_HEADER + b"payroll,A,B,1999,\n", "e")
    service.view = replace(service.view, table=table)
    held, suspicious = service.get("/errors?limit=2").json
    assert (held["kind"], held["quote"]) == ("held", "IBAN;Salary")
    assert (suspicious["kind"], "quote" in suspicious) == ("suspicious", False)


@pytest.mark.parametrize("count", [10, 2000])
def test_reject_list_finds_held_users_in_any_number_of_rejects(count: int) -> None:
    rejects = {
        user_id: Reject("k", user_id, "why", None, 0, "e")
        for user_id in ["/u.zip", "0003", *(f"x{number}" for number in range(count))]
    }
    assert replace(VIEW, rejects=rejects).reject_list.held_user_ids == {"0003"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/data"), ("POST", "/data?wait=60"), ("GET", "/tasks/1")]
)
def test_routes_that_need_redis_return_503_without_it(
    service: Service, method: str, path: str
) -> None:
    result = service.client.simulate_request(method, path)
    assert (result.status_code, result.json["type"]) == (503, "/docs#unavailable")
    assert "Redis does not answer" in result.json["detail"]
    assert int(result.headers["retry-after"]) > 0


def test_routes_refuse_unknown_paths_and_methods_as_problems(service: Service) -> None:
    not_found = service.get("/nowhere", Accept="text/csv")
    not_allowed = service.client.simulate_delete("/data")
    assert (not_found.status_code, not_allowed.status_code) == (404, 405)
    assert json.loads(not_found.content) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing at this address; `GET /` lists the routes.",
    }
    assert "GET, HEAD, POST" in not_allowed.headers["allow"]
    assert not_allowed.json["detail"]


def test_problem_is_a_page_for_a_browser(service: Service) -> None:
    browser = "text/html,application/xhtml+xml,*/*;q=0.8"
    page = service.get("/data?format=html&min_age=%3Cb%3E", Accept=browser)
    assert page.status_code == 400
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<h1>Invalid parameter</h1><p>min_age: &#x27;&lt;b&gt;&#x27; is not" in page.text
    assert '<a href="/data?format=html">' in page.text
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json", "nonsense"):
        problem = service.get("/data?format=html&min_age=%3Cb%3E", Accept=accept)
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.json["parameter"] == "min_age"


def test_index_route_lists_every_route(service: Service) -> None:
    routes = service.get("/").json["routes"]
    assert {route["path"] for route in routes} >= {
        "/data",
        "/stats",
        "/errors",
        "/tasks/{task_id}",
        "/health/ready",
    }
    assert all(route["description"].endswith(".") for route in routes)


@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text;version=x.y"])
def test_metrics_route_responds_in_text_format(service: Service, accept: str) -> None:
    result = service.get("/metrics", Accept=accept)
    assert result.status_code == 200
    assert result.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f"rowdrop_rows {float(service.get('/stats').json['count'])}\n" in result.text
    service.view = View()
    assert service.get("/metrics").status_code == 200
    assert service.get("/health/ready").status_code == 503


def test_live_route_is_503_until_table_is_loaded(service: Service) -> None:
    service.view = View()
    assert service.get("/health/live").status_code == 503
    service.view = View(VIEW.table, store_error="no answer", redis_error="no answer")
    assert service.get("/health/live").status_code == 200
