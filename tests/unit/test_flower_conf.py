"""Flower's settings in `worker/commands/flower_conf.py`, with Flower itself and without Redis."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUEST_PAGES = """
import asyncio, json
import flower.options
from flower.app import Flower
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.options import options, parse_config_file
from tornado.testing import bind_unused_port

parse_config_file("worker/commands/flower_conf.py", final=False)
password = {"auth_username": "rowdrop", "auth_password": "the-password"}

async def request_pages():
    server = HTTPServer(Flower(options=options))
    socket, port = bind_unused_port()
    server.add_socket(socket)
    client = AsyncHTTPClient()
    answers = {}
    for path in ("/", "/metrics", "/healthcheck"):
        for name, credentials in (("", {}), (" with password", password)):
            if (path, name) != ("/", " with password"):  # the page needs Redis
                url = f"http://127.0.0.1:{port}{path}"
                answer = await client.fetch(url, raise_error=False, **credentials)
                answers[path + name] = [answer.code, dict(answer.headers)]
    return answers

print(json.dumps(asyncio.run(request_pages())))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, dict[str, str]]]:
    """Return status and headers of Flower's answers."""
    completed = subprocess.run(
        [sys.executable, "-c", REQUEST_PAGES],
        cwd=ROOT,
        env={"REDIS_URL": "redis://127.0.0.1:1/0", "FLOWER_PASSWORD": "the-password"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: (code, headers) for name, (code, headers) in json.loads(completed.stdout).items()}


def test_flower_metrics_need_password(answers: dict[str, tuple[int, dict[str, str]]]) -> None:
    assert {name: code for name, (code, _) in answers.items()} == {
        "/": 401,
        "/metrics": 401,
        "/metrics with password": 200,
        "/healthcheck": 200,
        "/healthcheck with password": 200,
    }


def test_flower_pages_cannot_be_framed(answers: dict[str, tuple[int, dict[str, str]]]) -> None:
    for _, headers in answers.values():
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
