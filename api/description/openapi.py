"""GET /openapi.json: the OpenAPI 3.1 description of the API, read from `openapi.yaml`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from falcon import MEDIA_JSON
from falcon.asgi import Request, Response

from api.description.constant_body import ConstantBody
from api.query.parameters import parse_single_values
from shared.formats.records import COLUMNS, Column, Filter, get_title
from shared.settings import PageLink

Document = dict[str, Any]

DESCRIPTION_FILE = Path(__file__).with_name("openapi.yaml")
_INLINED = ("headers", "parameters", "responses")
"""The components that replace the references to them."""
_HELPERS = ("x-responses", "x-security", "x-filter-kinds")
"""Parts of `openapi.yaml` that only its other parts use."""


class OpenApiResource:
    """GET /openapi.json, with links for the page."""

    def __init__(self, links: tuple[PageLink, ...] = ()) -> None:
        self._links = links

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the description, which only changes with a release or the settings."""
        parse_single_values(request.params, ())
        _encode_document(self._links).send(request, response)

    on_head = on_get


@cache
def _encode_document(links: tuple[PageLink, ...]) -> ConstantBody:
    document = dict(DOCUMENT)
    if links:
        document["x-links"] = [link._asdict() for link in links]
    text = json.dumps(document, ensure_ascii=False, indent=1)
    return ConstantBody(text.encode() + b"\n", MEDIA_JSON)


def build_document(columns: Sequence[Column] = COLUMNS) -> Document:
    """Return the whole description, for rows with these columns.

    Raises `KeyError` if `openapi.yaml` refers to something that it does not contain.
    """
    document: Document = yaml.safe_load(DESCRIPTION_FILE.read_bytes())
    components = document["components"]
    _insert_columns(components, columns)
    _insert_filters(document, columns)
    document["paths"] = _inline(document["paths"], components)
    for methods in document["paths"].values():
        if "get" in methods:
            methods["head"] = _describe_head(methods["get"])
    for kind in _INLINED:
        del components[kind]
    for name in _HELPERS:
        del document[name]
    return document


def _insert_columns(components: Document, columns: Sequence[Column]) -> None:
    """Insert the columns into the schemas of rows and statistics, and into `sort` and `fields`."""
    schemas = components["schemas"]
    names = [column.name for column in columns]
    fields = {column.name: _describe_column(column) for column in columns}
    schemas["User"] |= {"properties": fields, "required": names}
    schemas["ExplainedUser"]["properties"] |= fields
    schemas["ExplainedUser"]["required"] += names
    schemas["SomeFields"]["properties"] = fields
    statistics = {
        each.name: {
            "title": get_title(each),
            "description": each.description,
            "type": [each.type, "null"],
            "x-display": each.display,
        }
        for column in columns
        for each in column.statistics
    }
    schemas["Statistics"]["properties"] |= statistics
    schemas["Statistics"]["required"] += statistics
    sort_keys = [f"{sign}{name}" for name in names for sign in ("", "-")]
    for parameter, allowed in (("sort", sort_keys), ("fields", names)):
        described = components["parameters"][parameter]
        described["description"] += f": {', '.join(names)}"
        described["schema"]["items"]["enum"] = allowed


def _describe_column(column: Column) -> Document:
    described: Document = {
        "title": get_title(column),
        "description": column.description,
        "type": [column.type, "null"] if column.is_nullable else column.type,
        **column.constraints,
        "examples": [column.example],
        "x-display": column.display,
    }
    if column.histogram:
        described["x-histogram"] = asdict(column.histogram)
    return described


def _insert_filters(document: Document, columns: Sequence[Column]) -> None:
    """Insert the filters into the operations that take them, and into the schema of statistics."""
    kinds = document["x-filter-kinds"]
    filters = [each for column in columns for each in column.filters]
    parameters = [
        _describe_filter(each, column, kinds[each.kind]["parameter"])
        for column in columns
        for each in column.filters
    ]
    example = "&".join(f"{each.name}={each.example}" for each in filters[:1])
    for methods in document["paths"].values():
        for operation in methods.values():
            if operation.pop("x-filters", False):
                operation["parameters"] = parameters + operation["parameters"]
                sample = operation["x-codeSamples"][0]
                sample["source"] = sample["source"].format(filter=example, column=columns[1].name)
    document["components"]["schemas"]["Statistics"]["properties"]["filters"]["properties"] |= {
        each.name: kinds[each.kind]["value"] for each in filters
    }


def _describe_filter(each: Filter, column: Column, kind: Document) -> Document:
    shown: Document = {
        "title": get_title(each),
        "column": column.name,
        "kind": each.kind,
        "example": each.example,
    }
    if each.kind == "boolean":
        shown["choices"] = dict(zip(("true", "false"), each.choices, strict=True))
    return {"name": each.name, "in": "query", **kind, "x-filter": shown}


def _inline(part: Any, components: Document) -> Any:  # noqa: ANN401
    """Return a part with the components instead of references to them.

    Schemas stay references. A description beside a reference replaces that of the component.
    """
    if isinstance(part, list):
        return [_inline(each, components) for each in part]
    if not isinstance(part, dict):
        return part
    kind, _, name = part.get("$ref", "").removeprefix("#/components/").partition("/")
    if kind in _INLINED:
        part = components[kind][name] | {key: part[key] for key in part if key != "$ref"}
    return {key: _inline(value, components) for key, value in part.items()}


def _describe_head(operation: Document) -> Document:
    """Return the description of HEAD: that of GET, without the bodies of its responses."""
    responses = {
        status: {name: part for name, part in response.items() if name != "content"}
        for status, response in operation["responses"].items()
    }
    return {name: part for name, part in operation.items() if name != "x-codeSamples"} | {
        "summary": f"The headers of: {operation['summary']}",
        "responses": responses,
    }


def find_token(operation: Document) -> str:
    """Return which token a client elsewhere needs: `write`, `read`, `events` or `none`."""
    accepted = {name for choice in operation.get("security", ()) for name in choice}
    if not accepted:
        return "none"
    if "eventsToken" in accepted:
        return "events"
    return "read" if "readToken" in accepted else "write"


DOCUMENT = build_document()
"""The description of this release."""
PATHS: dict[str, dict[str, Document]] = {
    path: {method: operation for method, operation in methods.items() if method != "head"}
    for path, methods in DOCUMENT["paths"].items()
}
"""The operations of each route but HEAD, in the order of `openapi.yaml`."""
