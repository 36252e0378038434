"""Tests of `S3ObjectStore` against a canned response that the tests' own MinIO does not produce.

Its body is copied from a MinIO that does.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.object_store import StoreUnavailable
from shared.s3.connection import S3Connection
from shared.s3.files import S3FileStore
from shared.s3.objects import S3ObjectStore

TAMPERED_RESPONSE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>XMinioObjectTampered</Code>'
    b"<Message>The requested object was modified and may be compromised</Message>"
    b"<BucketName>bucket</BucketName><Resource>/bucket</Resource></Error>"
)


class TamperedListHandler(BaseHTTPRequestHandler):
    """Handles each request as MinIO handles a LIST with a tampered object in it."""

    def do_GET(self) -> None:
        self.send_response(206)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(TAMPERED_RESPONSE)))
        self.end_headers()
        self.wfile.write(TAMPERED_RESPONSE)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def tampered_store() -> Iterator[S3ObjectStore]:
    with ThreadingHTTPServer(("127.0.0.1", 0), TamperedListHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield S3ObjectStore(S3Connection("bucket", endpoint, "user", "password", "us-east-1"))
        server.shutdown()


def test_store_list_error_is_not_an_empty_bucket(tampered_store: S3ObjectStore) -> None:
    """Require an error, because obstore reads the response as an empty page.

    A sweep would then conclude that all files were deleted.
    """
    with pytest.raises(StoreUnavailable):
        list(tampered_store.list_objects())
    with pytest.raises(StoreUnavailable):
        S3FileStore(tampered_store).list_page("", "", 10)
