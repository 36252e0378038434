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

from local.ports import HOST, free_port
from local.servers import MinioServer, find_minio

USER, PASSWORD = "rowdrop-tests", "a-password-of-the-tests"
BUCKET, KEY = "sealed", "object"
BODY = b"first_name,last_name,birthts\nSealed,By a key of its own,946674000000\n"


class TlsMinio(MinioServer):
    """A MinIO with a self-signed certificate and without events."""

    def prepare(self) -> None:
        """Prepare the folder and make the certificate."""
        super().prepare()
        certs = self.folder / "certs"
        files = ["-keyout", str(certs / "private.key"), "-out", str(certs / "public.crt")]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
        command = ["openssl", "req", "-x509", "-days", "2", *key, *files, *names]
        subprocess.run(command, check=True, capture_output=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of any MinIO, without the event targets."""
        settings = super().environment()
        return {name: value for name, value in settings.items() if "NOTIFY" not in name}

    def is_ready(self) -> bool:
        """Return whether the server is ready, as for any MinIO, but over TLS."""
        address = f"https://{HOST}:{self.port}/minio/health/cluster"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InsecureRequestWarning)
                return _http().request("GET", address, retries=False).status == 200
        except HTTPError:
            return False


def _http() -> PoolManager:
    return PoolManager(cert_reqs="CERT_NONE")


def write_sealed_object(folder: Path) -> Path:
    """Have a MinIO write an object with a random key that is not kept, and return its file."""
    server = TlsMinio(folder, free_port(), free_port(), USER, PASSWORD, 1, "", find_minio())
    with server, warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureRequestWarning)
        client = Minio(f"{HOST}:{server.port}", USER, PASSWORD, region="us-east-1", http_client=_http())
        client.make_bucket(BUCKET)
        key = SseCustomerKey(secrets.token_bytes(32))
        client.put_object(BUCKET, KEY, io.BytesIO(BODY), len(BODY), sse=key)
    return folder / "data" / BUCKET / KEY / "xl.meta"


def make_unreadable(server: MinioServer, sealed: Path, bucket: str, key: str) -> None:
    """Replace the object `key`, or create it, by the sealed object; this sends no event.

    `sealed`: the file of `write_sealed_object`.
    """
    place = server.folder / "data" / bucket / key
    new = place.with_name(f"{place.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    shutil.copy(sealed, new / "xl.meta")
    old = place.with_name(f"{place.name}.old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
