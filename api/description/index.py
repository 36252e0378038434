"""GET /: a short list of the routes."""

from typing import Any

from falcon.asgi import Request, Response

from api.description.openapi import PATHS, find_token
from api.query.filters import parse_single_values


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
    """The list of routes."""

    async def on_get(self, request: Request, response: Response) -> None:
        """Respond with every route, and with the address of the documentation."""
        parse_single_values(request.params, ())
        response.media = {"service": "Rowdrop", "documentation": "/docs", "routes": list_routes()}

    on_head = on_get
