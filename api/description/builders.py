"""Building blocks of the OpenAPI description of the routes. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.description.schemas import Schema, ref, text
from api.web.problem_kinds import PROBLEM_KINDS, PROBLEM_MEDIA_TYPE

JSON = "application/json"
_EVERYWHERE = (
    "wrong-request",
    "cross-site",
    "too-slow",
    "address-too-long",
    "wrong-expectation",
    "other-host",
)
_EVERYWHERE_TOO = ("headers-too-long", "our-fault", "wrong-coding")
_READS = ("token", "reads-refused", "failed-tokens")
EVENTS = ("token", "writes-refused", "failed-tokens")
WRITES = ("token", "read-token", "writes-refused", "failed-tokens")
ANYTHING: Schema = {}
"""The schema of binary content, which no schema can describe."""

Document = dict[str, Any]


def in_query(name: str, schema: Schema, description: str, **more: object) -> Document:
    """Return a parameter of the query string."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def in_path(name: str, description: str, **more: object) -> Document:
    """Return a parameter in the path."""
    schema = {**text(minLength=1), **more}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }


def answer(
    description: str, content: Mapping[str, Schema], headers: Mapping[str, str] | None = None
) -> Document:
    """Return a response: schemas by media type, and descriptions by header name."""
    document: Document = {"description": description}
    if content:
        document["content"] = {
            media_type: {"schema": schema} for media_type, schema in content.items()
        }
    if headers:
        document["headers"] = {
            name: {"description": meaning, "schema": text()} for name, meaning in headers.items()
        }
    return document


def _refusals(kinds: Sequence[str]) -> Document:
    by_status: dict[str, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(str(PROBLEM_KINDS[kind].status), []).append(PROBLEM_KINDS[kind].title)
    return {
        status: answer("; ".join(titles), {PROBLEM_MEDIA_TYPE: ref("Problem")})
        for status, titles in by_status.items()
    }


def operation(
    summary: str,
    answers: Mapping[str, Document],
    refusals: Sequence[str] = (),
    parameters: Sequence[Document] = (),
    sample: str = "",
    body: Document | None = None,
    *,
    is_open: bool = False,
) -> Document:
    """Return the description of one method of one route.

    `refusals` are the kinds of problems that only some operations have. An operation is a write if
    they include `WRITES`, and takes events if they begin with `EVENTS`. `is_open`: reading it needs
    no token.
    """
    is_write = set(WRITES) <= set(refusals)
    takes_events = refusals[: len(EVENTS)] == EVENTS
    reads = () if is_write or takes_events or is_open else _READS
    every = dict.fromkeys((*refusals, *reads, "wrong-parameter", *_EVERYWHERE, *_EVERYWHERE_TOO))
    document: Document = {
        "summary": summary,
        "responses": _refusals(list(every)) | dict(answers),
        "x-codeSamples": [{"lang": "Shell", "source": sample}],
    }
    if parameters:
        document["parameters"] = list(parameters)
    if body:
        document["requestBody"] = body
    if takes_events:
        document["security"] = [{"eventsToken": []}, {"eventsPassword": []}]
    elif not is_open:
        document["security"] = (
            [{}, {"token": []}] if is_write else [{}, {"token": []}, {"readToken": []}]
        )
    return document


def access_of(described: Document) -> str:
    """Return which token a non-local client needs: `write`, `read`, `events` or `none`."""
    accepted = {name for choice in described.get("security", ()) for name in choice}
    if not accepted:
        return "none"
    if "eventsToken" in accepted:
        return "events"
    return "read" if "readToken" in accepted else "write"
