"""The clients and the address of one bucket on an S3-compatible server."""

from datetime import timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore.store
from obstore.store import S3Store
from urllib3 import PoolManager, Retry, Timeout

from shared.settings import Settings

if TYPE_CHECKING:
    from minio import Minio

_RETRY_CONFIG: "obstore.store.RetryConfig" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {
        "init_backoff": timedelta(milliseconds=50),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}

_TIMEOUT = Timeout(connect=2, read=15)
# By default minio-py waits five minutes for a server that hangs, and then tries again.
_LIST_RETRY = Retry(total=2, read=0, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504))

_MAX_CONNECTIONS = 32
"""Connections that `http` keeps open: as many as a worker uses."""


class S3Connection:
    """The clients of one bucket: obstore, minio-py, and a pool of HTTP connections.

    Connections are kept open. The first one is opened by the first request.
    """

    def __init__(
        self, bucket: str, endpoint: str, access_key: str, secret_key: str, region: str
    ) -> None:
        self.bucket = bucket

        def connect_store(bucket: str, endpoint: str, *, endpoint_names_bucket: bool) -> S3Store:
            return S3Store(
                bucket,
                endpoint=endpoint,
                access_key_id=access_key,
                secret_access_key=secret_key,
                region=region,
                virtual_hosted_style_request=endpoint_names_bucket,
                client_options={"allow_http": True, "connect_timeout": "2s", "timeout": "15s"},
                retry_config=_RETRY_CONFIG,
            )

        self.store = connect_store(bucket, endpoint, endpoint_names_bucket=False)
        # obstore copies only within one bucket. With this bucket's URL as the endpoint and the
        # other bucket as the store's, it sends the PUT to this bucket, with a source in the other.
        bucket_endpoint = f"{endpoint.rstrip('/')}/{bucket}"
        self._open_copy_store = cache(
            lambda source_bucket: connect_store(
                source_bucket, bucket_endpoint, endpoint_names_bucket=True
            )
        )
        self.endpoint = endpoint
        self.region = region
        self.access_key = access_key
        self.secret_key = secret_key
        self.http = PoolManager(maxsize=_MAX_CONNECTIONS, timeout=_TIMEOUT)

    @classmethod
    def from_settings(cls, settings: Settings, bucket: str) -> "S3Connection":
        """Connect to one bucket of the configured MinIO server."""
        return cls(
            bucket,
            settings.minio_endpoint,
            settings.minio_access_key,
            settings.minio_secret_key,
            settings.region,
        )

    @cached_property
    def minio(self) -> "Minio":
        """The client for what obstore cannot do.

        It is imported on first use: the readers of single drops and the publisher do without its
        6 MB.
        """
        from minio import Minio  # noqa: PLC0415

        url = urlsplit(self.endpoint)
        is_secure = url.scheme == "https"
        return Minio(
            url.netloc,
            self.access_key,
            self.secret_key,
            secure=is_secure,
            region=self.region,
            http_client=PoolManager(
                maxsize=_MAX_CONNECTIONS, timeout=_TIMEOUT, retries=_LIST_RETRY
            ),
        )

    def open_copy_store(self, source_bucket: str) -> S3Store:
        """Return the store that copies objects of `source_bucket` to this bucket."""
        return self._open_copy_store(source_bucket)
