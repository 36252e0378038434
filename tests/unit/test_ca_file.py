"""CA_FILE: a certificate authority of one's own for MinIO, with every client that connects to it.

The server is a stub that speaks TLS with a certificate of the CA in `tests/tls/ca.pem`.
"""

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.settings import InvalidSettings, Settings

ROOT = Path(__file__).parents[2]
TLS = ROOT / "tests" / "tls"
CALLS = """
import io, json
from concurrent.futures import ThreadPoolExecutor
from shared.s3.files import open_file_store
from shared.s3.objects import open_store
from shared.settings import Settings
from worker.commands.provisioning.forgery_probe import probe_forged_writes
from worker.services.clients import ServerClients
from worker.services.container import Services
from worker.source.metrics import MinioMetrics

settings = Settings.from_environment(redis=False)
clients = ServerClients(settings)
store = open_store(settings, "bucket")
files = open_file_store(settings, "bucket")
calls = {
    "obstore": lambda: store.get("key").body.decode(),
    "minio-py of the store": lambda: files.list_page("", "", 5),
    "upload": lambda: files.upload("key", io.BytesIO(b"body"), 4),
    "minio-py of the commands": lambda: clients.create_minio_client().bucket_exists("bucket"),
    "metrics": lambda: MinioMetrics(settings.minio_endpoint, "").read() or 1 / 0,
    "forgery probe": lambda: probe_forged_writes(
        settings.minio_endpoint, "key", "bucket", "us-east-1", "prefix"
    ),
}
def succeeds(call):
    try:
        call()
    except Exception:
        return False
    return True
with ThreadPoolExecutor() as pool:
    print(json.dumps(dict(zip(calls, pool.map(succeeds, calls.values())))))
"""
LISTING = (
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><KeyCount>0</KeyCount><MaxKeys>5</MaxKeys>"
    b"<IsTruncated>false</IsTruncated></ListBucketResult>"
)


class StubS3(BaseHTTPRequestHandler):
    """Answers every request with success."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        if "list-type" in self.path:
            body = LISTING
        self.send_response(200)
        self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 08:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Discard the log."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Yield the address of the stub."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), StubS3)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def call_all(endpoint: str, **settings: str) -> dict[str, bool]:
    """Return which clients succeed, in a process with these settings."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "MINIO_ENDPOINT": endpoint,
        "MINIO_ACCESS_KEY": "key",
        "MINIO_SECRET_KEY": "secret",
        **settings,
    }
    completed = subprocess.run(
        [sys.executable, "-c", CALLS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    results: dict[str, bool] = json.loads(completed.stdout)
    return results


def test_ca_file_is_trusted_by_every_client(endpoint: str) -> None:
    results = call_all(endpoint, CA_FILE=str(TLS / "ca.pem"))
    assert [name for name, succeeded in results.items() if not succeeded] == []


def test_clients_refuse_certificate_of_unknown_ca(endpoint: str) -> None:
    results = call_all(endpoint)
    assert [name for name, succeeded in results.items() if succeeded] == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_settings_refuse_invalid_ca_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidSettings, match=r"CA_FILE: must be a readable file of certificates"):
        Settings.from_environment(redis=False)
    assert Settings.from_environment(minio=False, redis=False).ca_file == ""
