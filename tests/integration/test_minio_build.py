"""Rowdrop's build of MinIO rejects writes without a valid signature, and accepts all others."""

import io
import json
import subprocess
import tarfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.datatypes import PostPolicy
from minio.signer import sign_v4_s3

from local.servers import MinioServer
from shared.formats.source_keys import PROBE_PREFIX
from tests.conftest import MINIO_PASSWORD, MINIO_USER, create_bucket
from worker.commands.provisioning.forgery_probe import probe_forged_writes

REGION = "us-east-1"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SNOWBALL = {"X-Amz-Meta-Snowball-Auto-Extract": "true"}
CSV = b"first_name,last_name,birthts\nAda,Lovelace,946674000000\n"
CRC_OF_NEGATIVE_PARTS = b"\xc8\x01" + bytes(4) + b"\x80" * 8 + b"\x30" + bytes(4)
"""A checksum of -4611686018427387904 parts.

An unpatched MinIO panics when it reads it, and closes the connection.
"""
ENCRYPTED = {
    "X-Minio-Replication-Server-Side-Encryption-Sealed-Key": b64encode(bytes(64)).decode(),
    "X-Minio-Replication-Server-Side-Encryption-Seal-Algorithm": "DAREv2-HMAC-SHA256",
    "X-Minio-Replication-Server-Side-Encryption-Iv": b64encode(bytes(32)).decode(),
    "X-Minio-Replication-Encrypted-Multipart": "",
    "X-Minio-Replication-Actual-Object-Size": "7",
    "X-Minio-Replication-Ssec-Crc": b64encode(CRC_OF_NEGATIVE_PARTS).decode(),
}
"""Replication headers of encrypted objects.  In an unpatched MinIO they make objects unreadable."""


class Account(NamedTuple):
    """Access key and secret key of a MinIO user."""

    key: str
    secret: str


class Upload(NamedTuple):
    """The body of an upload, and the headers that describe it."""

    body: bytes
    headers: dict[str, str]


ROOT_ACCOUNT = Account(MINIO_USER, MINIO_PASSWORD)
WRITER = Account("tests-writer", "a-secret-of-the-writer")


@pytest.fixture(scope="module")
def writer(minio_server: MinioServer) -> Account:
    """Create a user with the policy `readwrite`."""
    admin = MinioAdmin(
        endpoint=urlsplit(minio_server.endpoint).netloc,
        credentials=StaticProvider(MINIO_USER, MINIO_PASSWORD),
        secure=False,
    )
    admin.user_add(WRITER.key, WRITER.secret)
    admin.policy_set("readwrite", user=WRITER.key)
    return WRITER


@pytest.fixture(params=[ROOT_ACCOUNT, WRITER], ids=["root", "user"])
def account(request: pytest.FixtureRequest, writer: Account) -> Account:
    """Each kind of account for which an attacker may know the access key."""
    return Account(*request.param)


@pytest.fixture
def bucket(minio_client: Minio) -> str:
    return create_bucket(minio_client)


class Sender:
    """Sends requests to a bucket: signed, forged in the name of an account, or anonymous."""

    def __init__(self, server: MinioServer, client: Minio, bucket: str) -> None:
        self._endpoint = server.endpoint
        self._client = client
        self._bucket = bucket

    def anonymous(self, key: str, upload: Upload) -> int:
        return self._send("PUT", self._url(key), upload.body, upload.headers).status

    def forged_by_query(
        self, account: Account, key: str, upload: Upload, parameters: Mapping[str, str] = {}
    ) -> int:
        """Send a PUT with the access key in the query string and a signature of zeros."""
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": credential(account),
            "X-Amz-Date": amz_date(datetime.now(UTC)),
            "X-Amz-Expires": "600",
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Signature": "0" * 64,
        }
        url = self._url(key, query | dict(parameters))
        headers = upload.headers | {"x-amz-date": amz_date(datetime.now(UTC))}
        return self._send("PUT", url, upload.body, headers).status

    def forged_by_header(self, account: Account, key: str, upload: Upload) -> int:
        """Send a PUT with an Authorization header that contains an invalid signature."""
        signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date"
        forged = (
            f"AWS4-HMAC-SHA256 Credential={credential(account)}, {signed}, Signature={'0' * 64}"
        )
        headers = {"Authorization": forged, "x-amz-date": amz_date(datetime.now(UTC))}
        return self._send("PUT", self._url(key), upload.body, upload.headers | headers).status

    def signed(
        self,
        account: Account,
        method: str,
        key: str,
        upload: Upload,
        parameters: Mapping[str, str] = {},
        age: timedelta = timedelta(),
    ) -> urllib3.BaseHTTPResponse:
        """Send a request with a valid signature of the age `age`."""
        url = self._url(key, parameters)
        date = datetime.now(UTC) - age
        content_sha256 = upload.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        headers: dict[str, str | list[str] | tuple[str]] = {
            **upload.headers,
            "Host": urlsplit(url).netloc,
            "x-amz-content-sha256": content_sha256,
            "x-amz-date": amz_date(date),
        }
        signed_headers = sign_v4_s3(
            method=method,
            url=urlsplit(url),
            region=REGION,
            headers=headers,
            credentials=Credentials(account.key, account.secret),
            content_sha256=content_sha256,
            date=date,
        )
        return self._send(
            method, url, upload.body, {name: str(value) for name, value in signed_headers.items()}
        )

    def begin_parts(self, key: str, headers: Mapping[str, str] = {}) -> str:
        """Start a multipart upload as root and return its ID."""
        answer = self.signed(ROOT_ACCOUNT, "POST", key, Upload(b"", dict(headers)), {"uploads": ""})
        assert answer.status == 200
        return between(answer.data.decode(), "<UploadId>", "</UploadId>")

    def keys(self) -> list[str]:
        infos = self._client.list_objects(self._bucket, recursive=True)
        return sorted(str(item.object_name) for item in infos)

    def assert_readable(self, key: str, content: bytes) -> None:
        """Assert that GET and HEAD of the object return 200, with and without its checksums."""
        for headers in ({}, {"x-amz-checksum-mode": "ENABLED"}):
            head = self.signed(WRITER, "HEAD", key, Upload(b"", headers))
            assert (key, head.status) == (key, 200)
            get = self.signed(WRITER, "GET", key, Upload(b"", headers))
            assert (key, get.status, get.data) == (key, 200, content)

    def _url(self, key: str, parameters: Mapping[str, str] = {}) -> str:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self._endpoint}/{self._bucket}/{key}{query}"

    @staticmethod
    def _send(
        method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        with urllib3.PoolManager(timeout=20, retries=False) as http:
            return http.request(method, url, body=body, headers=dict(headers))


@pytest.fixture
def sender(minio_server: MinioServer, minio_client: Minio, writer: Account, bucket: str) -> Sender:
    return Sender(minio_server, minio_client, bucket)


def amz_date(date: datetime) -> str:
    return f"{date:%Y%m%dT%H%M%SZ}"


def credential(account: Account) -> str:
    return f"{account.key}/{datetime.now(UTC):%Y%m%d}/{REGION}/s3/aws4_request"


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def plain(content: bytes) -> Upload:
    return Upload(content, {})


def with_trailer(content: bytes) -> Upload:
    """Return an upload with its checksum in a trailer, as AWS clients send it over HTTPS."""
    checksum = b64encode(zlib.crc32(content).to_bytes(4, "big"))
    body = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % (len(content), content, checksum)
    headers = {
        "x-amz-content-sha256": UNSIGNED_TRAILER,
        "x-amz-decoded-content-length": str(len(content)),
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
    }
    return Upload(body, headers)


def raw_with_trailer(content: bytes) -> Upload:
    """Return the same kind of upload, but with a body that is not chunked."""
    headers = {
        "x-amz-content-sha256": UNSIGNED_TRAILER,
        "x-amz-decoded-content-length": str(len(content)),
    }
    return Upload(content, headers)


def tar_of(key: str, content: bytes, records: Mapping[str, str] = {}) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(key)
        member.size = len(content)
        member.mtime = int(datetime.now(UTC).timestamp())
        member.pax_headers = dict(records)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def is_refused(status: int) -> bool:
    return 400 <= status < 500


def test_minio_build_refuses_forged_query_credential(sender: Sender, account: Account) -> None:
    """CVE-2026-41145: an unpatched MinIO does not verify a signature in the query string."""
    assert is_refused(sender.forged_by_query(account, "forged.csv", with_trailer(CSV)))
    assert sender.keys() == []


def test_minio_build_forged_query_credential_overwrites_nothing(
    sender: Sender, account: Account
) -> None:
    sender.signed(WRITER, "PUT", "ada.csv", plain(CSV))
    forged = with_trailer(b"forged")
    status = sender.forged_by_query(
        account, "ada.csv", Upload(forged.body, forged.headers | ENCRYPTED)
    )
    assert is_refused(status)
    sender.assert_readable("ada.csv", CSV)


@pytest.mark.parametrize("form", [with_trailer, raw_with_trailer])
def test_minio_build_refuses_forged_snowball(
    sender: Sender, account: Account, form: Callable[[bytes], Upload]
) -> None:
    """CVE-2026-40344: an unpatched MinIO unpacks a tar without verifying the signature."""
    upload = form(tar_of("forged.csv", CSV))
    snowball = Upload(upload.body, upload.headers | SNOWBALL)
    assert is_refused(sender.forged_by_header(account, "any.tar", snowball))
    assert is_refused(sender.forged_by_query(account, "any.tar", snowball))
    assert sender.keys() == []


def test_minio_build_refuses_forged_header(sender: Sender, account: Account) -> None:
    assert is_refused(sender.forged_by_header(account, "forged.csv", with_trailer(CSV)))
    assert sender.keys() == []


def test_minio_build_refuses_forged_part(sender: Sender, account: Account) -> None:
    """CVE-2026-41145 also concerns the parts of an unfinished multipart upload."""
    part = {"uploadId": sender.begin_parts("parts.csv"), "partNumber": "1"}
    assert is_refused(sender.forged_by_query(account, "parts.csv", with_trailer(CSV), part))
    listed = sender.signed(
        ROOT_ACCOUNT, "GET", "parts.csv", plain(b""), {"uploadId": part["uploadId"]}
    )
    assert listed.status == 200
    assert b"<PartNumber>" not in listed.data


def test_minio_build_refuses_replayed_upload_with_trailer(sender: Sender, account: Account) -> None:
    """The signature of such an upload is valid for 15 minutes, like that of all other requests."""
    old = sender.signed(account, "PUT", "ada.csv", with_trailer(CSV), age=timedelta(minutes=20))
    assert is_refused(old.status)
    recent = sender.signed(account, "PUT", "ada.csv", with_trailer(CSV), age=timedelta(minutes=10))
    assert recent.status == 200


def test_minio_build_passes_forgery_probe(
    minio_server: MinioServer, sender: Sender, account: Account, bucket: str
) -> None:
    accepted = probe_forged_writes(minio_server.endpoint, account.key, bucket, REGION, PROBE_PREFIX)
    assert accepted == sender.keys() == []


def test_minio_build_stores_signed_upload_with_trailer(sender: Sender, account: Account) -> None:
    """AWS clients use this form over HTTPS."""
    assert sender.signed(account, "PUT", "ada.csv", with_trailer(CSV)).status == 200
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_refuses_upload_with_wrong_secret(sender: Sender, account: Account) -> None:
    impostor = Account(account.key, "not-the-secret-of-it")
    assert is_refused(sender.signed(impostor, "PUT", "ada.csv", with_trailer(CSV)).status)
    assert sender.keys() == []


def test_minio_build_stores_signed_parts_with_trailer(sender: Sender, account: Account) -> None:
    upload_id = sender.begin_parts("parts.csv")
    part = {"uploadId": upload_id, "partNumber": "1"}
    answer = sender.signed(account, "PUT", "parts.csv", with_trailer(CSV), part)
    assert answer.status == 200
    complete_parts(sender, "parts.csv", upload_id, answer.headers["ETag"])
    sender.assert_readable("parts.csv", CSV)


def complete_parts(
    sender: Sender, key: str, upload_id: str, etag: str, headers: Mapping[str, str] = {}
) -> None:
    """Complete a multipart upload that has one part."""
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
    query = {"uploadId": upload_id}
    answer = sender.signed(WRITER, "POST", key, Upload(body, dict(headers)), query)
    assert answer.status == 200, answer.data


def test_minio_build_unpacks_signed_snowball(sender: Sender, account: Account) -> None:
    snowball = Upload(tar_of("ada.csv", CSV), SNOWBALL)
    assert sender.signed(account, "PUT", "any.tar", snowball).status == 200
    sender.assert_readable("ada.csv", CSV)


@pytest.mark.parametrize("form", [plain, with_trailer])
def test_minio_build_anonymous_upload_follows_bucket_policy(
    sender: Sender, minio_client: Minio, bucket: str, form: Callable[[bytes], Upload]
) -> None:
    assert sender.anonymous("ada.csv", form(CSV)) == 403
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:PutObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    minio_client.set_bucket_policy(bucket, policy)
    assert sender.anonymous("ada.csv", form(CSV)) == 200
    sender.assert_readable("ada.csv", CSV)


@pytest.mark.parametrize("header", [*ENCRYPTED, "all headers"])
def test_minio_build_replication_header_keeps_object_readable(sender: Sender, header: str) -> None:
    """CVE-2026-34204: in an unpatched MinIO a client can mark an object as encrypted."""
    headers = ENCRYPTED if header == "all headers" else {header: ENCRYPTED[header]}
    replication = {"X-Minio-Source-Replication-Request": "true"}
    put = sender.signed(WRITER, "PUT", "by-header.csv", Upload(CSV, headers))
    assert put.status == 200
    sender.assert_readable("by-header.csv", CSV)
    put = sender.signed(WRITER, "PUT", "as-replica.csv", Upload(CSV, headers | replication))
    assert put.status == 200
    sender.assert_readable("as-replica.csv", CSV)


def test_minio_build_replication_parameter_keeps_object_readable(sender: Sender) -> None:
    """MinIO also reads metadata from the query string."""
    assert sender.signed(WRITER, "PUT", "ada.csv", plain(CSV), ENCRYPTED).status == 200
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_replication_record_in_tar_keeps_object_readable(sender: Sender) -> None:
    """MinIO also reads metadata from the PAX records of an uploaded tar."""
    records = {f"minio.metadata.{name}": value for name, value in ENCRYPTED.items() if value}
    snowball = Upload(tar_of("ada.csv", CSV, records), SNOWBALL)
    assert sender.signed(WRITER, "PUT", "any.tar", snowball).status == 200
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_replication_header_of_copy_keeps_object_readable(
    sender: Sender, bucket: str
) -> None:
    sender.signed(WRITER, "PUT", "ada.csv", plain(CSV))
    copy = {"x-amz-copy-source": f"/{bucket}/ada.csv", "x-amz-metadata-directive": "REPLACE"}
    answer = sender.signed(WRITER, "PUT", "copy.csv", Upload(b"", copy | ENCRYPTED))
    assert answer.status == 200
    sender.assert_readable("copy.csv", CSV)


def test_minio_build_replication_form_field_keeps_object_readable(
    sender: Sender, minio_server: MinioServer, minio_client: Minio, bucket: str
) -> None:
    """MinIO also reads metadata from the fields of an upload by an HTML form."""
    policy = PostPolicy(bucket, datetime.now(UTC) + timedelta(hours=1))
    policy.add_equals_condition("key", "ada.csv")
    for name, value in ENCRYPTED.items():
        policy.add_equals_condition(name, value or "none")
    fields = {name: value or "none" for name, value in ENCRYPTED.items()}
    fields |= minio_client.presigned_post_policy(policy) | {"key": "ada.csv"}
    with urllib3.PoolManager(timeout=20, retries=False) as http:
        answer = http.request(
            "POST",
            f"{minio_server.endpoint}/{bucket}",
            fields=[*fields.items(), ("file", ("ada.csv", CSV, "text/csv"))],
        )
    assert answer.status == 204, answer.data
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_replication_headers_of_parts_keep_object_readable(sender: Sender) -> None:
    replication = {"X-Minio-Source-Replication-Request": "true"}
    upload_id = sender.begin_parts("ada.csv", ENCRYPTED | replication)
    part = {"uploadId": upload_id, "partNumber": "1"}
    answer = sender.signed(WRITER, "PUT", "ada.csv", Upload(CSV, replication), part)
    assert answer.status == 200, answer.data
    complete_parts(sender, "ada.csv", upload_id, answer.headers["ETag"], ENCRYPTED | replication)
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_replication_headers_of_completion_keep_object_readable(sender: Sender) -> None:
    replication = {"X-Minio-Source-Replication-Request": "true"}
    upload_id = sender.begin_parts("ada.csv")
    part = {"uploadId": upload_id, "partNumber": "1"}
    answer = sender.signed(WRITER, "PUT", "ada.csv", plain(CSV), part)
    complete_parts(sender, "ada.csv", upload_id, answer.headers["ETag"], ENCRYPTED | replication)
    sender.assert_readable("ada.csv", CSV)


def test_minio_build_refuses_parts_with_false_encryption(sender: Sender) -> None:
    """In an unpatched MinIO, a replica that claims encryption without a key becomes unreadable."""
    false_encryption = {
        "X-Amz-Server-Side-Encryption": "AES256",
        "X-Minio-Source-Replication-Request": "true",
        "X-Amz-Replication-Status": "REPLICA",
    }
    begin = sender.signed(
        WRITER, "POST", "ada.csv", Upload(b"", ENCRYPTED | false_encryption), {"uploads": ""}
    )
    if begin.status == 200:
        upload_id = between(begin.data.decode(), "<UploadId>", "</UploadId>")
        part = {"uploadId": upload_id, "partNumber": "1"}
        upload = Upload(CSV, {"X-Minio-Source-Replication-Request": "true"})
        answer = sender.signed(WRITER, "PUT", "ada.csv", upload, part)
        assert b"<Error>" in answer.data
    assert sender.keys() == []


def test_minio_build_version_says_it_is_modified(minio_server: MinioServer) -> None:
    """AGPL-3.0, section 5, requires a modified version to carry a notice of the modification."""
    answer = subprocess.run(
        [minio_server.options.binary, "--version"], capture_output=True, text=True, check=True
    )
    assert ".rowdrop1 " in answer.stdout
    assert "modified by Rowdrop on 2026-11-27" in minio_server.log_path.read_text()
