"""Copy an object on the server, with the ETag of its source in its metadata.

obstore copies faster, but can neither set metadata nor make a condition on the source, and does not
return the ETag. minio-py requests the source first.
"""

import html
import mimetypes
import re
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote, urlsplit

from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from shared.object_store import PreconditionFailed, StoreUnavailable
from shared.s3 import errors
from shared.s3.connection import S3Connection
from shared.s3.metadata import SOURCE_ETAG, strip_quotes

_RETRIES = Retry(
    2,
    backoff_factor=0.05,
    status_forcelist=(500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
_ETAG = re.compile("<ETag>([^<]*)</ETag>")
_EMPTY_BODY_DIGEST = sha256(b"").hexdigest()


def copy_object(
    connection: S3Connection,
    source: tuple[str, str],
    target_key: str,
    source_etag: str,
    *,
    if_match: bool,
) -> str:
    """Copy and return the ETag: see `ObjectStore.copy_from`. `source`: a bucket and a key in it."""
    bucket, key = source
    # New metadata replaces that of the source, its type included.
    content_type, _ = mimetypes.guess_type(target_key)
    headers = {
        "x-amz-copy-source": quote(f"/{bucket}/{key}"),
        "x-amz-metadata-directive": "REPLACE",
        f"x-amz-meta-{SOURCE_ETAG}": source_etag,
        "content-type": content_type or "application/octet-stream",
    }
    if if_match:
        headers["x-amz-copy-source-if-match"] = f'"{source_etag}"'
    try:
        status, body = _send_put(connection, target_key, headers)
    except HTTPError as error:
        raise StoreUnavailable(f"{bucket}/{key}: {errors.format_error(error)}") from error
    if status == 412:
        raise PreconditionFailed(key)
    etag = _ETAG.search(body)
    # The status of a long copy is sent before its end: then an error has the status 200.
    if status != 200 or etag is None:
        failure = FileNotFoundError if status == 404 else OSError
        raise errors.translate_error(bucket, key, failure(f"status code: {status}: {body}"))
    return strip_quotes(html.unescape(etag[1]))


def _send_put(
    connection: S3Connection, target_key: str, headers: dict[str, str]
) -> tuple[int, str]:
    # Imported where they are used: 6 MB.
    from minio.credentials.credentials import Credentials  # noqa: PLC0415
    from minio.signer import sign_v4_s3  # noqa: PLC0415

    path = quote(f"/{connection.bucket}/{target_key}", safe="/~")
    url = urlsplit(connection.endpoint.rstrip("/") + path)
    now = datetime.now(UTC)
    signed = sign_v4_s3(
        method="PUT",
        url=url,
        region=connection.region,
        headers={
            **headers,
            "host": url.netloc,
            "x-amz-content-sha256": _EMPTY_BODY_DIGEST,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        },
        credentials=Credentials(connection.access_key, connection.secret_key),
        content_sha256=_EMPTY_BODY_DIGEST,
        date=now,
    )
    signed_headers = {name: str(value) for name, value in signed.items()}
    response = connection.http.request(
        "PUT", url.geturl(), headers=signed_headers, retries=_RETRIES
    )
    return response.status, response.data.decode(errors="replace")
