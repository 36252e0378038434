"""Test how MinioUsers interprets the answers of a MinIO that has just started."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from minio.error import S3Error

from shared.settings import Settings
from worker.commands.provisioning.minio_users import MinioUsers

ERROR = "<Error><Code>{}</Code><Message>no</Message><Resource>/</Resource></Error>"
NO_BUCKETS = (
    "<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets></Buckets></ListAllMyBucketsResult>"
)


class Handler(BaseHTTPRequestHandler):
    """Answer as MinIO does while it loads its users and root access is off.

    The first request of a user other than root gets XMinioIAMNotInitialized.
    """

    user_requests = 0

    def do_GET(self) -> None:
        if "Credential=root/" in self.headers["Authorization"]:
            self.send_answer(403, ERROR.format("InvalidAccessKeyId"))
            return
        Handler.user_requests += 1
        if Handler.user_requests == 1:
            self.send_answer(503, ERROR.format("XMinioIAMNotInitialized"))
        else:
            self.send_answer(200, NO_BUCKETS)

    def send_answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing: the test prints no requests."""


def test_is_root_enabled_raises_until_minio_has_loaded_users() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = Settings(
            minio_endpoint=f"http://127.0.0.1:{server.server_port}",
            minio_access_key="worker-1",
            minio_secret_key="a-secret-key",
            redis_url="redis://127.0.0.1:1/0",
            minio_root_user="root",
            minio_root_password="a-password",
            minio_users="worker=worker-1:a-secret-key",
        )
        users = MinioUsers(settings)
        try:
            with pytest.raises(S3Error, match="XMinioIAMNotInitialized"):
                users.is_root_enabled()
            assert not users.is_root_enabled()
            assert users.find_unknown_roles() == []
        finally:
            server.shutdown()
            thread.join()
