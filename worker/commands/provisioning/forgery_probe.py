"""Test whether a MinIO accepts uploads that are not signed with a secret key.

For uploads with an unsigned trailer, all published MinIO versions up to 2026-02 look up the access
key but do not verify the signature (CVE-2026-40344, CVE-2026-41145).  The MinIO that Rowdrop builds
rejects such uploads: see minio-source/README.md.  `rowdrop init` runs this probe at each start.
"""

import base64
import io
import os
import secrets
import tarfile
import zlib
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import certifi
import urllib3

from worker.commands.provisioning.server_users import UNSIGNED_TRAILER

_NO_SIGNATURE = "0" * 64
_SIGNED_HEADERS = "host;x-amz-content-sha256;x-amz-date"
_TIMEOUT = urllib3.Timeout(connect=5, read=15)


def probe_forged_writes(
    endpoint: str, access_key: str, bucket: str, region: str, prefix: str
) -> list[str]:
    """Return the keys of the objects that the server stored without a valid signature.

    The list is empty if the server rejects the uploads.  The probe sends two small objects, each
    with a new random key that begins with `prefix`.  It needs and sends no secret key.  The caller
    deletes the objects.  Raises `urllib3.exceptions.HTTPError` if the server is not reachable.
    """
    now = datetime.now(UTC)
    credential = f"{access_key}/{now:%Y%m%d}/{region or 'us-east-1'}/s3/aws4_request"
    headers = {"x-amz-content-sha256": UNSIGNED_TRAILER, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}"}
    query_key = prefix + secrets.token_hex(6)
    snowball_key = prefix + secrets.token_hex(6)
    ca_certs = os.environ.get("SSL_CERT_FILE") or certifi.where()  # like the minio package
    # retries=False also disables redirects: a redirect counts as a rejection.
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=False, ca_certs=ca_certs) as http:

        def is_accepted(key: str, query: str, body: bytes, more_headers: dict[str, str]) -> bool:
            url = f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}{query}"
            answer = http.request("PUT", url, body=body, headers=headers | more_headers)
            return 200 <= answer.status < 300

        accepted = []
        if is_accepted(
            query_key, _build_credential_query(credential, now), *_encode_chunked(b"forged")
        ):
            accepted.append(query_key)
        if is_accepted(
            snowball_key,
            "",
            _encode_tar(snowball_key, b"forged", now),
            _build_snowball_headers(credential),
        ):
            accepted.append(snowball_key)
        return accepted


def _build_credential_query(credential: str, now: datetime) -> str:
    parameters = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": credential,
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": _NO_SIGNATURE,
    }
    return "?" + urlencode(parameters)


def _encode_chunked(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of an aws-chunked upload with a checksum in its trailer."""
    checksum = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    trailer = f"x-amz-checksum-crc32:{checksum}\r\n\r\n".encode()
    body = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n" + trailer
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(content)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    return body, headers


def _encode_tar(key: str, content: bytes, now: datetime) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(key)
        member.size = len(content)
        member.mtime = int(now.timestamp())
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _build_snowball_headers(credential: str) -> dict[str, str]:
    """Return headers that make MinIO unpack the body (Snowball), with an invalid signature."""
    parts = (
        f"Credential={credential}",
        f"SignedHeaders={_SIGNED_HEADERS}",
        f"Signature={_NO_SIGNATURE}",
    )
    return {
        "Authorization": f"AWS4-HMAC-SHA256 {', '.join(parts)}",
        "X-Amz-Meta-Snowball-Auto-Extract": "true",
    }
