"""The OpenAPI description and the API agree: same routes, parameters, problems and tokens."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest

from api.answers.formats import CONTENT_TYPES
from api.app import create_app
from api.description.openapi import DESCRIPTION_FILE, DOCUMENT, PATHS, Document, build_document
from api.query.file_query import MAX_LISTED_FILES
from api.query.filters import FILTER_PARAMETERS
from api.query.row_query import FORMATS, MAX_SEARCH_LENGTH, MAX_SEARCH_WORDS
from api.query.wait_query import MAX_WAIT_S
from api.web.problem_kinds import PLAIN_TYPE, PROBLEM_KINDS, STATUS_EXPLANATIONS
from shared.formats.records import COLUMNS, Column, Filter, Histogram, Row, Statistic
from shared.formats.source_keys import (
    BUNDLE_EXTENSIONS,
    MAX_FILE_NAME_BYTES,
    MAX_KEY_BYTES,
    USER_FILE_EXTENSIONS,
    explain_unusable_name,
)
from shared.settings import PageLink
from tests.api_parts import ApiClient, make_dependencies
from tests.unit.test_api_routes import EVENTS_TOKEN, LOCAL, NAMED, OPEN, Service

METHODS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
QUERY_PARAMETERS = [
    (method, path, parameter)
    for method, path in METHODS
    for parameter in DOCUMENT["paths"][path][method].get("parameters", ())
    if parameter["in"] == "query"
]
COLOUR_COLUMNS = (
    Column("user_id", "string", "the key", "1", constraints={"minLength": 1}),
    Column(
        "colour",
        "string",
        "the colour",
        "red",
        is_nullable=True,
        filters=(Filter("has_colour", "boolean", "true", choices=("painted", "bare")),),
        title="Paint",
    ),
    Column(
        "weight",
        "integer",
        "the weight in grams",
        5,
        constraints={"minimum": 0},
        filters=(
            Filter("min_weeks", "age", "3", "From week"),
            Filter("max_weeks", "age", "9", "To week"),
        ),
        histogram=Histogram("Weeks", "min_weeks", "max_weeks", start=2, end=8, step=2),
        statistics=(Statistic("average_weight", "number", "mean of the weights"),),
    ),
)
"""A table of columns for another schema."""
each_operation = pytest.mark.parametrize(("method", "path"), METHODS)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


def operation(method: str, path: str) -> Any:  # noqa: ANN401
    return DOCUMENT["paths"][path][method]


def test_openapi_describes_every_route_and_method(service: Service) -> None:
    routed = {
        (method.method.lower(), route.path.replace(":path", ""))
        for route in falcon.inspect.inspect_routes(service.client.api)
        for method in route.methods
        if not method.internal and method.method != "OPTIONS"
    }
    # Served by the route of the files, which may have slashes in their names.
    routed |= {(method, "/files/{name}/receipt") for method in ("get", "head")}
    assert routed == set(METHODS)


@each_operation
def test_openapi_describes_every_query_parameter(service: Service, method: str, path: str) -> None:
    described = [each["name"] for *route, each in QUERY_PARAMETERS if route == [method, path]]
    address = re.sub(r"\{\w+\}", "x.csv", path)
    headers = {"Authorization": f"Bearer {EVENTS_TOKEN}"} if path == "/events" else {}
    result = service.client.simulate_request(
        "GET" if method == "head" else method.upper(), f"{address}?no_such=1", headers=headers
    )
    assert (result.status_code, result.json["parameter"]) == (400, "no_such")
    assert result.json["allowed"] == f"the parameters {', '.join(described) or '(none)'}"


@pytest.mark.parametrize(("method", "path", "parameter"), QUERY_PARAMETERS)
def test_openapi_parameters_state_what_is_allowed(
    service: Service, method: str, path: str, parameter: Document
) -> None:
    """The description of a parameter begins with the words of the refusal of an invalid value."""
    name = parameter["name"]
    invalid_value = "" if name == "q" else "//"
    result = service.client.simulate_request(
        "GET" if method == "head" else method.upper(),
        re.sub(r"\{\w+\}", "x.csv", path),
        params={name: invalid_value},
    )
    assert (result.status_code, result.json["parameter"]) == (400, name)
    assert parameter["description"].partition(": only files")[0] == result.json["allowed"]


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
    if path == "/health/live" or path.startswith("/page/"):
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
    schemes = DOCUMENT["components"]["securitySchemes"]
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
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT["paths"])) == schemas


def test_openapi_describes_every_problem_type() -> None:
    described = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert described == [PLAIN_TYPE, *(f"/docs#{kind}" for kind in PROBLEM_KINDS)]
    assert len(described) <= 12


def test_openapi_describes_every_problem_status() -> None:
    """Each status of a problem is described at some route, and each described one explained.

    The statuses 404 (for an unknown address) and 405 are those of no operation.
    """
    described = {
        int(status)
        for methods in DOCUMENT["paths"].values()
        for each in methods.values()
        for status, response in each["responses"].items()
        if "application/problem+json" in response.get("content", ())
    }
    statuses = {*STATUS_EXPLANATIONS, *(kind.status for kind in PROBLEM_KINDS.values())}
    assert described == statuses - {405}


def test_code_uses_exactly_the_problem_kinds() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parents[2] / "api").rglob("*.py")
    )
    used = re.findall(r"\bProblem\(\s*(?:f?)\"([^\"]+)\"", code)
    assert set(used) == PROBLEM_KINDS.keys()


def find_schema(method: str, path: str, name: str) -> Document:
    (parameter,) = (each for each in operation(method, path)["parameters"] if each["name"] == name)
    schema: Document = parameter["schema"]
    return schema


def test_openapi_limits_are_those_of_the_code() -> None:
    assert find_schema("get", "/files", "limit")["maximum"] == MAX_LISTED_FILES
    assert find_schema("post", "/data", "wait")["maximum"] == MAX_WAIT_S
    search = find_schema("get", "/data", "q")
    assert search["maxLength"] == MAX_SEARCH_LENGTH
    assert re.search(search["pattern"], "a " * MAX_SEARCH_WORDS)
    assert not re.search(search["pattern"], "a " * (MAX_SEARCH_WORDS + 1))
    # The pattern separates words by the same characters as the API.
    blanks = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))
    listed = re.findall(r"\[([^\]^]+)\]", search["pattern"])
    assert len(set(listed)) == 1
    assert re.findall(f"[{listed[0]}]", "".join(map(chr, range(sys.maxunicode + 1)))) == [*blanks]
    assert find_schema("get", "/data/{user_id}", "user_id")["maxLength"] == MAX_FILE_NAME_BYTES - 4
    assert find_schema("put", "/files/{name}", "name")["maxLength"] == MAX_FILE_NAME_BYTES
    for method, path, name in (
        ("get", "/files/{name}", "name"),
        ("get", "/files", "prefix"),
        ("get", "/files", "after"),
    ):
        assert find_schema(method, path, name)["maxLength"] == MAX_KEY_BYTES


def test_openapi_formats_are_those_of_the_code() -> None:
    assert find_schema("get", "/data", "format")["enum"] == list(FORMATS)
    described = operation("get", "/data")["responses"]["200"]["content"]
    assert list(described) == [CONTENT_TYPES[name].partition(";")[0] for name in FORMATS]


# -- Columns ---------------------------------------------------------------------------------------
def test_columns_are_the_fields_of_a_row() -> None:
    assert tuple(column.name for column in COLUMNS) == Row.__match_args__


@pytest.mark.parametrize("columns", [COLUMNS, COLOUR_COLUMNS])
def test_histogram_uses_filters_of_its_column(columns: Sequence[Column]) -> None:
    for column in columns:
        if column.histogram:
            names = {each.name for each in column.filters}
            assert {column.histogram.min_filter, column.histogram.max_filter} <= names


def test_openapi_file_names_no_column() -> None:
    """What depends on the columns is inserted: the key `user_id` is the only column it names."""
    text = DESCRIPTION_FILE.read_text(encoding="utf-8")
    names = [column.name for column in COLUMNS[1:]]
    statistics = [each.name for column in COLUMNS for each in column.statistics]
    for name in (*names, *FILTER_PARAMETERS, *statistics):
        assert not re.search(rf"\b{name}\b", text)


def test_openapi_follows_another_table_of_columns() -> None:
    document = build_document(COLOUR_COLUMNS)
    schemas = document["components"]["schemas"]
    assert schemas["User"]["properties"] == schemas["SomeFields"]["properties"] == {
        "user_id": {
            "title": "User id", "description": "the key", "type": "string", "minLength": 1,
            "examples": ["1"], "x-display": "text",
        },
        "colour": {
            "title": "Paint", "description": "the colour", "type": ["string", "null"],
            "examples": ["red"], "x-display": "text",
        },
        "weight": {
            "title": "Weight", "description": "the weight in grams", "type": "integer",
            "minimum": 0, "examples": [5], "x-display": "text",
            "x-histogram": {
                "title": "Weeks", "min_filter": "min_weeks", "max_filter": "max_weeks",
                "start": 2, "end": 8, "step": 2,
            },
        },
    }  # fmt: skip
    assert schemas["User"]["required"] == ["user_id", "colour", "weight"]
    assert "required" not in schemas["SomeFields"]
    statistics = schemas["Statistics"]
    assert statistics["required"] == ["count", "filters", "average_weight"]
    assert statistics["properties"]["average_weight"]["type"] == ["number", "null"]
    assert statistics["properties"]["average_weight"]["title"] == "Average weight"
    integer = {"type": "integer"}
    filters = {"has_colour": {"type": "boolean"}, "min_weeks": integer, "max_weeks": integer}
    assert statistics["properties"]["filters"]["properties"] == {"q": {"type": "string"}} | filters

    rows = {each["name"]: each for each in document["paths"]["/data"]["get"]["parameters"]}
    assert [*rows][:4] == ["has_colour", "min_weeks", "max_weeks", "q"]
    assert rows["min_weeks"]["schema"]["type"] == "integer"
    assert rows["min_weeks"]["x-filter"] == {
        "title": "From week", "column": "weight", "kind": "age", "example": "3",
    }  # fmt: skip
    assert rows["has_colour"]["x-filter"]["choices"] == {"true": "painted", "false": "bare"}
    assert rows["fields"]["schema"]["items"]["enum"] == ["user_id", "colour", "weight"]
    assert rows["fields"]["description"].endswith(": user_id, colour, weight")
    assert rows["sort"]["schema"]["items"]["enum"] == [
        "user_id", "-user_id", "colour", "-colour", "weight", "-weight",
    ]  # fmt: skip
    stats = document["paths"]["/stats"]["get"]
    assert [each["name"] for each in stats["parameters"]] == [
        "has_colour", "min_weeks", "max_weeks", "q",
    ]  # fmt: skip
    assert "has_colour=true" in stats["x-codeSamples"][0]["source"]
    # Nothing is left of the columns of this release.
    text = json.dumps(document)
    names = [column.name for column in COLUMNS[1:]]
    assert [name for name in (*names, *FILTER_PARAMETERS) if name in text] == []


# -- Route and file names --------------------------------------------------------------------------


def test_openapi_route_has_links_of_settings(service: Service) -> None:
    assert "x-links" not in service.get("/openapi.json").json
    links = (PageLink("Flower", "http://127.0.0.1:5555"),)
    parts = make_dependencies(service.redis)._replace(page_links=links)
    client = ApiClient(create_app(parts, NAMED, OPEN), headers=LOCAL)
    document = client.simulate_get("/openapi.json").json
    assert document["x-links"] == [{"title": "Flower", "address": "http://127.0.0.1:5555"}]
    assert document["paths"] == DOCUMENT["paths"]


def test_openapi_route_serves_cacheable_json(service: Service) -> None:
    result = service.get("/openapi.json")
    assert (result.json["openapi"], result.headers["content-type"]) == ("3.1.0", "application/json")
    assert result.json == json.loads(json.dumps(DOCUMENT))
    assert service.get("/openapi.json", If_None_Match=result.headers["etag"]).status_code == 304


@pytest.mark.parametrize(
    "name",
    [
        "1.csv", "é.png", "a b.jpg", "1.jpeg", ".csv", "1.CSV", "a/1.csv", "1.txt", "1", "a\t.csv",
        "1.zip", "1.tar", "1.tar.gz", "1.tgz", "1.gif", "._1.csv", "~$1.csv", ".~lock.1.csv",
        "~1.csv", "#1.csv", ".1.csv", "1.csv ",
    ],
)  # fmt: skip
def test_openapi_file_name_pattern_matches_rules(name: str) -> None:
    pattern = find_schema("put", "/files/{name}", "name")["pattern"]
    assert bool(re.search(pattern, name)) == (explain_unusable_name(name) is None)


def test_openapi_file_name_pattern_has_every_extension() -> None:
    pattern = find_schema("put", "/files/{name}", "name")["pattern"]
    extensions = re.search(r"\(\?:(.+)\)\$$", pattern.replace(r"\.gz", ".gz"))
    assert extensions
    assert set(extensions[1].split("|")) == {*USER_FILE_EXTENSIONS, *BUNDLE_EXTENSIONS}


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
    assert all(f'id="status-{status}"' in text for status in STATUS_EXPLANATIONS)


def test_docs_page_states_required_token(service: Service) -> None:
    text = service.get("/docs").text
    operations = [path for path, methods in PATHS.items() for _ in methods]
    assert text.count("Token: none.") == 2
    assert text.count("Token, from every client: the EVENTS_TOKEN.") == 1
    assert text.count("Token, if the client is not local") == len(operations) - 3
    assert 'id="tokens"' in text


def test_docs_page_works_offline_without_scripts(service: Service) -> None:
    result = service.get("/docs")
    assert result.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in result.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import", result.text)
    assert service.get("/docs", If_None_Match=result.headers["etag"]).status_code == 304


def test_docs_page_explains_every_problem_type(service: Service) -> None:
    text = service.get("/docs").text
    assert service.get("/nowhere").json["type"] == PLAIN_TYPE
    for path in ("/data?x=1", "/data/nobody", "/tasks/1"):
        assert f'id="{service.get(path).json["type"].removeprefix("/docs#")}"' in text


def test_docs_page_links_have_targets(service: Service) -> None:
    text = service.get("/docs").text
    targets = set(re.findall(r'id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= targets
