"""The OpenAPI description and the API agree: same routes, parameters, problems and tokens."""

import json
import re
from collections.abc import Iterator
from typing import Any

import falcon.inspect
import pytest

from api.description.openapi import build_document
from api.description.operations import PATHS, READABLE
from api.web.problem_kinds import PROBLEM_KINDS
from shared.formats.source_keys import explain_unusable_name
from tests.unit.test_api_routes import EVENTS_TOKEN, Service

METHODS = [
    (method, path) for path, methods in build_document()["paths"].items() for method in methods
]
each_operation = pytest.mark.parametrize(("method", "path"), METHODS)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


def operation(method: str, path: str) -> Any:  # noqa: ANN401
    return build_document()["paths"][path][method]


def test_openapi_describes_every_route_and_method(service: Service) -> None:
    routed = {
        (method.method.lower(), route.path.replace(":path", ""))
        for route in falcon.inspect.inspect_routes(service.client.api)
        for method in route.methods
        if not method.internal
    }
    assert routed == set(METHODS)


@each_operation
def test_openapi_describes_every_query_parameter(service: Service, method: str, path: str) -> None:
    described = [
        each["name"]
        for each in operation(method, path).get("parameters", ())
        if each["in"] == "query"
    ]
    address = re.sub(r"\{\w+\}", "x.csv", path)
    headers = {"Authorization": f"Bearer {EVENTS_TOKEN}"} if path == "/events" else {}
    result = service.client.simulate_request(
        "GET" if method == "head" else method.upper(), f"{address}?no_such=1", headers=headers
    )
    assert (result.status_code, result.json["parameter"]) == (400, "no_such")
    assert result.json["allowed"] == f"the parameters {', '.join(described) or '(none)'}"


@each_operation
def test_openapi_describes_every_path_parameter(method: str, path: str) -> None:
    described = {
        each["name"]
        for each in operation(method, path).get("parameters", ())
        if each["in"] == "path"
    }
    assert described == set(re.findall(r"\{(\w+)\}", path))


@each_operation
def test_openapi_operations_have_summary_and_example(method: str, path: str) -> None:
    described = operation(method, path)
    assert described["summary"].endswith(".")
    if method != "head":
        assert "curl " in described["x-codeSamples"][0]["source"]
    assert all(answer["description"] for answer in described["responses"].values())


@each_operation
def test_openapi_operations_state_required_token(method: str, path: str) -> None:
    described = operation(method, path)
    if path == "/health/live":
        assert "security" not in described
        assert "401" not in described["responses"]
        return
    expected: list[dict[str, list[str]]] = [{}, {"token": []}]
    if path == "/events":
        expected = [{"eventsToken": []}, {"eventsPassword": []}]
    elif method in {"get", "head"}:
        expected.append({"readToken": []})
    assert described["security"] == expected
    assert {"401", "403", "429"} <= described["responses"].keys()
    schemes = build_document()["components"]["securitySchemes"]
    assert {name for each in expected for name in each} <= schemes.keys()


def test_index_route_states_required_token(service: Service) -> None:
    needed = {
        (each["method"], each["path"]): each["token"] for each in service.get("/").json["routes"]
    }
    assert needed["GET", "/health/live"] == "none"
    assert needed["GET", "/data"] == "read"
    assert needed["POST", "/data"] == "write"
    writes = {name for name, token in needed.items() if token == "write"}
    assert needed.pop(("POST", "/events")) == "events"
    assert writes == {name for name in needed if name[0] != "GET"}


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_openapi_schemas_are_all_referenced() -> None:
    schemas = {f"#/components/schemas/{name}" for name in build_document()["components"]["schemas"]}
    assert set(references(build_document()["paths"])) == schemas


def test_openapi_route_serves_cacheable_json(service: Service) -> None:
    result = service.get("/openapi.json")
    assert (result.json["openapi"], result.headers["content-type"]) == ("3.1.0", "application/json")
    assert result.json == json.loads(json.dumps(build_document()))
    assert service.get("/openapi.json", If_None_Match=result.headers["etag"]).status_code == 304


@pytest.mark.parametrize(
    "name",
    [
        "1.csv", "é.png", "a b.jpg", "1.jpeg", ".csv", "1.CSV", "a/1.csv", "1.txt", "1", "a\t.csv",
        "1.zip", "1.tar", "1.tar.gz", "1.tgz", "1.gif",
    ],
)  # fmt: skip
def test_openapi_file_name_pattern_matches_rules(name: str) -> None:
    assert bool(re.search(READABLE, name)) == (explain_unusable_name(name) is None)


# -- HTML page -------------------------------------------------------------------------------------
def test_docs_page_lists_routes_parameters_and_problems(service: Service) -> None:
    text = service.get("/docs").text
    for path, methods in PATHS.items():
        for method, described in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in text
            assert all(
                f"<code>{each['name']}</code>" in text for each in described.get("parameters", ())
            )
    assert all(f'id="{kind}"' in text for kind in PROBLEM_KINDS)


def test_docs_page_states_required_token(service: Service) -> None:
    text = service.get("/docs").text
    operations = [path for path, methods in PATHS.items() for _ in methods]
    assert text.count("Token: none.") == 1
    assert text.count("Token, from every client: the EVENTS_TOKEN.") == 1
    assert text.count("Token, if the client is not local") == len(operations) - 2
    assert 'id="tokens"' in text


def test_docs_page_works_offline_without_scripts(service: Service) -> None:
    result = service.get("/docs")
    assert result.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in result.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import", result.text)
    assert service.get("/docs", If_None_Match=result.headers["etag"]).status_code == 304


def test_docs_page_explains_every_problem_type(service: Service) -> None:
    text = service.get("/docs").text
    for path in ("/nowhere", "/data?x=1", "/data/nobody", "/tasks/1"):
        assert f'id="{service.get(path).json["type"].removeprefix("/docs#")}"' in text


def test_docs_page_links_have_targets(service: Service) -> None:
    text = service.get("/docs").text
    targets = set(re.findall(r'id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= targets
