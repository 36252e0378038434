"""Makes objects that a MinIO refuses to read: encrypted with a key that only their writer has.

MinIO accepts such objects (SSE-C) only over TLS, so one is written to a separate server with a
certificate. MinIO stores a small object with all its metadata in one file. A copy of this file
makes an object of another server unreadable in the same way.
"""

import io
import secrets
import shutil
import subprocess
import warnings
from pathlib import Path

from minio import Minio
from minio.sse import SseCustomerKey
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from local.ports import HOST, find_free_port
from local.servers import (
    MinioOptions,
    MinioPorts,
    MinioServer,
    RedisAddress,
    ServerUser,
    find_minio,
)

MINIO_USER = "rowdrop-tests"
MINIO_PASSWORD = "a-password-of-the-tests"
UNREADABLE_BUCKET = "sealed"
UNREADABLE_KEY = "object"
UNREADABLE_BODY = b"first_name,last_name,birthts\nSealed,By a key of its own,946674000000\n"


class TlsMinioServer(MinioServer):
    """A MinIO with a self-signed certificate and without events."""

    def prepare_folder(self) -> None:
        """Prepare the folder and make the certificate."""
        super().prepare_folder()
        certs = self.folder / "certs"
        files = ["-keyout", str(certs / "private.key"), "-out", str(certs / "public.crt")]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
        command = ["openssl", "req", "-x509", "-days", "2", *key, *files, *names]
        subprocess.run(command, check=True, capture_output=True)

    def build_environment(self) -> dict[str, str]:
        """Return the environment of any MinIO, without the event targets."""
        settings = super().build_environment()
        return {name: value for name, value in settings.items() if "NOTIFY" not in name}

    def is_ready(self) -> bool:
        """Return whether the server is ready, as for any MinIO, but over TLS."""
        address = f"https://{HOST}:{self.port}/minio/health/cluster"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InsecureRequestWarning)
                return _create_http_client().request("GET", address, retries=False).status == 200
        except HTTPError:
            return False


def _create_http_client() -> PoolManager:
    return PoolManager(cert_reqs="CERT_NONE")


def write_unreadable_object(folder: Path) -> Path:
    """Have a MinIO write an object with a random key that is not kept, and return its file."""
    server = TlsMinioServer(
        folder,
        MinioPorts(find_free_port(), find_free_port()),
        ServerUser(MINIO_USER, MINIO_PASSWORD),
        RedisAddress(HOST, 1, "", ""),
        MinioOptions(find_minio()),
    )
    with server, warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureRequestWarning)
        client = Minio(
            f"{HOST}:{server.port}",
            MINIO_USER,
            MINIO_PASSWORD,
            region="us-east-1",
            http_client=_create_http_client(),
        )
        client.make_bucket(UNREADABLE_BUCKET)
        key = SseCustomerKey(secrets.token_bytes(32))
        client.put_object(
            UNREADABLE_BUCKET,
            UNREADABLE_KEY,
            io.BytesIO(UNREADABLE_BODY),
            len(UNREADABLE_BODY),
            sse=key,
        )
    return folder / "data" / UNREADABLE_BUCKET / UNREADABLE_KEY / "xl.meta"


def replace_by_unreadable(
    server: MinioServer, unreadable_file: Path, bucket: str, key: str
) -> None:
    """Replace the object `key`, or create it, by the sealed object; this sends no event.

    `unreadable_file`: the file of `write_unreadable_object`.
    """
    object_folder = server.folder / "data" / bucket / key
    new_folder = object_folder.with_name(f"{object_folder.name}.new")
    shutil.rmtree(new_folder, ignore_errors=True)
    new_folder.mkdir(parents=True)
    shutil.copy(unreadable_file, new_folder / "xl.meta")
    old_folder = object_folder.with_name(f"{object_folder.name}.old")
    if object_folder.exists():
        object_folder.rename(old_folder)
    new_folder.rename(object_folder)
    shutil.rmtree(old_folder, ignore_errors=True)
