"""The clients of a process for Redis, MinIO and Celery.

Each is created, and connects, when it is first used.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import certifi
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from urllib3 import PoolManager, Timeout
from urllib3.util import Retry as HttpRetry

from shared import logs
from shared.s3.objects import S3ObjectStore, open_store
from shared.settings import Settings
from shared.task_queue import TaskQueue, create_celery

if TYPE_CHECKING:
    from minio import Minio

READ_CONCURRENCY = 32
"""Maximum concurrent requests to MinIO per process; more are not faster on one server."""


def _create_http_client() -> PoolManager:
    """Return a client with the options of minio-py, apart from the attempts to connect."""
    return PoolManager(
        timeout=Timeout(connect=3, read=300),
        maxsize=10,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=HttpRetry(
            total=5, connect=0, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]
        ),
    )


class ServerClients:
    """The clients of one process for Redis, MinIO and Celery.

    They hold connections and threads, so create them after a fork, never before.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def from_environment(cls, *, redis: bool = True) -> "ServerClients":
        """Read the settings and set up the log.

        Raises `InvalidSettings`. `redis`: whether the process uses Redis and requires its settings.
        """
        settings = Settings.from_environment(redis=redis)
        logs.configure_logging(settings.log_level)
        return cls(settings)

    def close(self) -> None:
        """Close the connections and stop the threads."""
        self.redis.close()
        self.tasks.close()
        self.read_pool.shutdown()

    def connect_redis(self) -> "Redis":
        """Return a new Redis client, for a thread that blocks in Redis."""
        return Redis.from_url(
            self.settings.redis_url,
            socket_timeout=10,
            socket_connect_timeout=3,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),
        )

    def create_minio_client(self, http_client: PoolManager | None = None) -> "Minio":
        """Return a client for requests about whole buckets: creation and notifications.

        By default it retries errors of the server, and never a connection that fails: a command
        reports a stopped server immediately.
        """
        from minio import Minio  # noqa: PLC0415

        endpoint = urlsplit(self.settings.minio_endpoint)
        access_key = self.settings.minio_access_key
        secret_key = self.settings.minio_secret_key
        return Minio(
            endpoint.netloc,
            access_key,
            secret_key,
            secure=endpoint.scheme == "https",
            region=self.settings.region,
            http_client=http_client or _create_http_client(),
        )

    @cached_property
    def redis(self) -> "Redis":
        """The Redis client of the process; it returns bytes."""
        return self.connect_redis()

    @cached_property
    def source(self) -> S3ObjectStore:
        """The source bucket, where users drop files."""
        return open_store(self.settings, self.settings.source_bucket)

    @cached_property
    def output(self) -> S3ObjectStore:
        """The output bucket, which holds the published files."""
        return open_store(self.settings, self.settings.output_bucket)

    @cached_property
    def tasks(self) -> TaskQueue:
        """The Celery queues, for enqueueing tasks."""
        return TaskQueue(create_celery(self.settings.redis_url))

    @cached_property
    def read_pool(self) -> ThreadPoolExecutor:
        """The threads that send concurrent requests to MinIO."""
        return ThreadPoolExecutor(READ_CONCURRENCY, thread_name_prefix="reader")
