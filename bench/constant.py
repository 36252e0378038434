"""Constant answers on the API's own stack: `gunicorn bench.constant:app`, the floor of the web figures.

Each file of the folder `BENCH_CONSTANTS` is a route that answers with its bytes.
"""

import os
from pathlib import Path

import falcon
from falcon import Request, Response


class Constant:
    """A route whose answer never changes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def on_get(self, request: Request, response: Response) -> None:
        """The bytes."""
        response.content_type = falcon.MEDIA_JSON
        response.data = self._body


app = falcon.App()
for file in Path(os.environ["BENCH_CONSTANTS"]).iterdir():
    app.add_route(f"/{file.name}", Constant(file.read_bytes()))
