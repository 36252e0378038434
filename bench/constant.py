"""Constant responses on the API's own server, the floor of the web figures.

Run as `gunicorn bench.constant:app`. Each folder below `BENCH_CONSTANTS` is a path. Its response
has the status and the headers of `head.json` and the bytes of `body`.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_Message = dict[str, Any]


def _load_messages(folder: Path) -> tuple[_Message, _Message]:
    head = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    headers = [(name.encode(), value.encode()) for name, value in head["headers"]]
    return (
        {"type": "http.response.start", "status": head["status"], "headers": headers},
        {"type": "http.response.body", "body": (folder / "body").read_bytes()},
    )


_messages_by_path = {
    f"/{folder.name}": _load_messages(folder)
    for folder in Path(os.environ["BENCH_CONSTANTS"]).iterdir()
}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[_Message]],
    send: Callable[[_Message], Awaitable[None]],
) -> None:
    """Send the response of this path."""
    for message in _messages_by_path[scope["path"]]:
        await send(message)
