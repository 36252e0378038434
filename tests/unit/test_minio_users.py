"""What worker/minio_users.py makes of the answers of a MinIO that has just been started."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from minio.error import S3Error

from shared.settings import Settings
from worker.minio_users import MinioUsers

ERROR = "<Error><Code>{}</Code><Message>no</Message><Resource>/</Resource></Error>"
NO_BUCKETS = "<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets></Buckets></ListAllMyBucketsResult>"


class Handler(BaseHTTPRequestHandler):
    """Answers as MinIO does without root's access, while it loads its users: for the first request of a user."""

    users_asked = 0

    def do_GET(self) -> None:
        if "Credential=root/" in self.headers["Authorization"]:
            self.answer(403, ERROR.format("InvalidAccessKeyId"))
            return
        Handler.users_asked += 1
        if Handler.users_asked == 1:
            self.answer(503, ERROR.format("XMinioIAMNotInitialized"))
        else:
            self.answer(200, NO_BUCKETS)

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_root_is_not_known_to_be_away_before_minio_has_loaded_its_users() -> None:
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
                users.root_may_sign_in()
            assert not users.root_may_sign_in()
            assert users.unknown() == []
        finally:
            server.shutdown()
            thread.join()
