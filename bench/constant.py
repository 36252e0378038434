"""Constant responses on the API's own stack, the floor of the web figures.

Run as `gunicorn bench.constant:app`. Each file in the folder `BENCH_CONSTANTS` is a route that
returns the file's bytes.
"""

import os
from pathlib import Path

import falcon
import falcon.asgi
from falcon.asgi import Request, Response


class ConstantResource:
    """A route with a constant response."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def on_get(self, request: Request, response: Response) -> None:
        """Return the bytes."""
        response.content_type = falcon.MEDIA_JSON
        response.data = self._body


app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
for file in Path(os.environ["BENCH_CONSTANTS"]).iterdir():
    app.add_route(f"/{file.name}", ConstantResource(file.read_bytes()))
