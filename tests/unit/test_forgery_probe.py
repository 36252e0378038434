"""Tests of `worker.commands.provisioning.forgery_probe`: its requests, and what responses mean."""

import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from urllib3.exceptions import HTTPError

from local.ports import find_free_port
from shared.formats.source_keys import PROBE_PREFIX
from worker.commands.provisioning.forgery_probe import probe_forged_writes


class Server(ThreadingHTTPServer):
    """Responds to each PUT with the next of `statuses`, and records the requests."""

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = statuses
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers PUT and DELETE as the server of the test says."""

    server: Server

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(
            (self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        )
        status = self.server.statuses[len(self.server.requests) - 1]
        self.send_response(status)
        if status == 307:
            self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(endpoint: str) -> list[str]:
    return probe_forged_writes(endpoint, "an-access-key", "src-data", "", PROBE_PREFIX)


@pytest.mark.parametrize(
    ("server", "accepted"),
    [
        ([200, 204], 2),
        ([200, 403], 1),
        ([403, 200], 1),
        ([403, 400], 0),
        ([500, 503], 0),
        ([307, 307], 0),
    ],
    indirect=["server"],
)
def test_forgery_probe_returns_keys_answered_with_success(server: Server, accepted: int) -> None:
    assert len(probe(server.endpoint)) == accepted
    assert len(server.requests) == 2


@pytest.mark.parametrize("server", [[200, 200]], indirect=True)
def test_forgery_probe_uses_probe_keys(server: Server) -> None:
    """The listener ignores keys with this prefix, and the caller can delete the objects."""
    by_query, by_snowball = probe(server.endpoint + "/")
    assert by_query != by_snowball
    assert by_query.startswith(PROBE_PREFIX)
    assert by_snowball.startswith(PROBE_PREFIX)
    (query_path, _, _), (_, _, tar) = server.requests
    assert urlsplit(query_path).path == f"/src-data/{by_query}"
    with tarfile.open(fileobj=io.BytesIO(tar)) as packed:
        assert packed.getnames() == [by_snowball]


@pytest.mark.parametrize("server", [[403, 403]], indirect=True)
def test_forgery_probe_sends_invalid_signatures(server: Server) -> None:
    probe(server.endpoint)
    (query_path, query_headers, _), (snowball_path, snowball_headers, _) = server.requests
    query = parse_qs(urlsplit(query_path).query)
    assert query["X-Amz-Signature"] == ["0" * 64]
    assert query["X-Amz-Credential"][0].startswith("an-access-key/")
    assert query["X-Amz-Credential"][0].endswith("/us-east-1/s3/aws4_request")
    assert "authorization" not in query_headers
    assert urlsplit(snowball_path).query == ""
    assert snowball_headers["authorization"].endswith("Signature=" + "0" * 64)
    for headers in (query_headers, snowball_headers):
        assert headers["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def test_forgery_probe_raises_documented_error_without_server() -> None:
    with pytest.raises(HTTPError):
        probe(f"http://127.0.0.1:{find_free_port()}")
