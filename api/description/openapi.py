"""GET /openapi.json: the OpenAPI 3.1 description of the API."""

import json
from functools import cache

from falcon import MEDIA_JSON
from falcon.asgi import Request, Response

from api.description import schemas
from api.description.builders import Document
from api.description.operations import PATHS
from api.query.filters import parse_single_values
from api.web.conditional import apply_etag, compute_etag

_TO_WRITE = (
    "A write token: API_TOKEN, one of the API_TOKENS, or the generated token.  A client on the "
    "same machine needs none, unless the operator has set API_TOKEN or API_TOKENS."
)
_TO_READ = (
    "One of the READ_TOKENS.  A client on the same machine needs none; "
    "with PUBLIC_READ=true no client needs one."
)


class OpenApiResource:
    """GET /openapi.json."""

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the description, which only changes with a release."""
        parse_single_values(request.params, ())
        body = encode_document()
        if not apply_etag(request, response, compute_etag("openapi", body)):
            response.content_type = MEDIA_JSON
            response.data = body

    on_head = on_get


@cache
def encode_document() -> bytes:
    """Return the description as bytes of JSON."""
    return json.dumps(build_document(), ensure_ascii=False, indent=1).encode() + b"\n"


def _head_of(operation: Document) -> Document:
    """Return the description of HEAD: that of GET, without the bodies of its responses."""
    answers = {
        status: {name: part for name, part in answer.items() if name != "content"}
        for status, answer in operation["responses"].items()
    }
    summary = f"The headers of: {operation['summary']}"
    return {name: part for name, part in operation.items() if name != "x-codeSamples"} | {
        "summary": summary,
        "responses": answers,
    }


def build_document() -> Document:
    """Return the whole description."""
    paths = {
        path: methods | ({"head": _head_of(methods["get"])} if "get" in methods else {})
        for path, methods in PATHS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rowdrop",
            "version": "1",
            "description": "Drop a file, get a row.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": _TO_WRITE},
                "readToken": {"type": "http", "scheme": "bearer", "description": _TO_READ},
                "eventsToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The EVENTS_TOKEN.  It permits nothing else.",
                },
                "eventsPassword": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The EVENTS_TOKEN as password, with any user.",
                },
            },
        },
    }
