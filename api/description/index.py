"""GET /: the page, for browsers; for programs a short list of the routes."""

from html import escape
from typing import Any

from falcon.asgi import Request, Response

from api.access.auth import may_read_without_token
from api.description.openapi import PATHS, find_token
from api.description.page_files import PageFiles
from api.query.links import build_path
from api.query.negotiation import prefers_html
from api.query.parameters import parse_single_values
from api.query.row_query import ROW_PARAMETERS

_NO_SCRIPT_TARGET = b"url=/data?format=html"


def list_routes() -> list[dict[str, Any]]:
    """Return every route with its summary, token and parameters, in the order of `PATHS`."""
    return [
        {
            "method": method.upper(),
            "path": path,
            "description": operation["summary"],
            "token": find_token(operation),
            "parameters": {
                parameter["name"]: parameter["description"]
                for parameter in operation.get("parameters", ())
                if parameter["in"] == "query"
            },
        }
        for path, methods in PATHS.items()
        for method, operation in methods.items()
    ]


class IndexResource:
    """The page and the list of routes."""

    def __init__(self, page_files: PageFiles) -> None:
        self._page_files = page_files

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with the page, or with every route and the address of the documentation.

        The page reads the query string itself: the filters of its table. Where it cannot, because
        the browser runs no scripts, the page of the rows gets them.
        """
        response.append_header("Vary", "Accept")
        if prefers_html(request.get_header("Accept")):
            is_preloading = may_read_without_token(request)
            files = self._page_files
            page = files.preloading_html if is_preloading else files.html
            values = ((name, request.params.get(name)) for name in ROW_PARAMETERS)
            if filters := {name: value for name, value in values if isinstance(value, str)}:
                target = build_path("/data", filters, format="html")
                page = page.replace(_NO_SCRIPT_TARGET, b"url=" + escape(target).encode())
            page.send(request, response)
            return
        parse_single_values(request.params, ())
        response.media = {"service": "Rowdrop", "documentation": "/docs", "routes": list_routes()}

    on_head = on_get
