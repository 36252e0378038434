"""A real MinIO and a real Redis for the tests: started once, on free ports, in their own folder."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import settings
from minio import Minio
from redis import Redis

from local.ports import find_free_port
from local.servers import MinioOptions, MinioPorts, MinioServer, RedisServer, ServerUser, find_minio
from shared.s3.connection import S3Connection
from shared.s3.files import S3FileStore
from shared.s3.objects import S3ObjectStore
from tests.unreadable import replace_by_unreadable, write_unreadable_object

MINIO_USER = "rowdrop-tests"
MINIO_PASSWORD = "a-password-of-the-tests"

# The default deadline of 0.2 s per example fails on a busy machine.
settings.register_profile("rowdrop", deadline=None)
settings.load_profile("rowdrop")


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def minio_redis_server(servers_folder: Path) -> Iterator[RedisServer]:
    """Start the Redis that `minio_server` publishes to.

    MinIO may send events late in a burst, so those of one test can arrive during the next.
    """
    with RedisServer(
        servers_folder / "minio-redis", find_free_port(), ServerUser("", secrets.token_hex(8))
    ) as server:
        yield server


@pytest.fixture(scope="session")
def silent_redis_server(servers_folder: Path) -> Iterator[RedisServer]:
    """Start a Redis that MinIO does not publish to."""
    with RedisServer(
        servers_folder / "silent-redis", find_free_port(), ServerUser("", secrets.token_hex(8))
    ) as server:
        yield server


@pytest.fixture(scope="session")
def minio_server(servers_folder: Path, minio_redis_server: RedisServer) -> Iterator[MinioServer]:
    server = MinioServer(
        servers_folder / "minio",
        MinioPorts(find_free_port(), find_free_port()),
        ServerUser(MINIO_USER, MINIO_PASSWORD),
        minio_redis_server.address,
        MinioOptions(find_minio()),
    )
    with server:
        yield server


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """Return a Redis without MinIO's events, unless the test is marked `minio_events`."""
    has_events = request.node.get_closest_marker("minio_events") is not None
    server: RedisServer = request.getfixturevalue(
        "minio_redis_server" if has_events else "silent_redis_server"
    )
    return server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url, socket_timeout=10) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def minio_client(minio_server: MinioServer) -> Minio:
    return Minio(urlsplit(minio_server.endpoint).netloc, MINIO_USER, MINIO_PASSWORD, secure=False)


def create_bucket(client: Minio) -> str:
    bucket = f"test-{secrets.token_hex(6)}"
    client.make_bucket(bucket)
    return bucket


def open_bucket(bucket: str, endpoint: str, password: str = MINIO_PASSWORD) -> S3ObjectStore:
    return S3ObjectStore(S3Connection(bucket, endpoint, MINIO_USER, password, "us-east-1"))


@pytest.fixture
def store(minio_server: MinioServer, minio_client: Minio) -> S3ObjectStore:
    """Create an empty bucket."""
    return open_bucket(create_bucket(minio_client), minio_server.endpoint)


OpenFiles = Callable[[S3ObjectStore], S3FileStore]
"""Return the `FileStore` of the bucket of this `ObjectStore`."""


@pytest.fixture
def open_files() -> OpenFiles:
    return S3FileStore


@pytest.fixture
def files(store: S3ObjectStore, open_files: OpenFiles) -> S3FileStore:
    """Open the bucket of `store` as the API does."""
    return open_files(store)


@pytest.fixture
def other_store(minio_server: MinioServer, minio_client: Minio) -> S3ObjectStore:
    """Create a second empty bucket on the same server."""
    return open_bucket(create_bucket(minio_client), minio_server.endpoint)


@pytest.fixture
def missing_bucket_store(minio_server: MinioServer) -> S3ObjectStore:
    return open_bucket("no-such-bucket", minio_server.endpoint)


@pytest.fixture
def unauthorized_store(store: S3ObjectStore, minio_server: MinioServer) -> S3ObjectStore:
    return open_bucket(store.bucket, minio_server.endpoint, "not-the-password")


@pytest.fixture
def unreachable_store() -> S3ObjectStore:
    return open_bucket("src-data", f"http://127.0.0.1:{find_free_port()}")


MakeUnreadable = Callable[[str, str], None]
"""Make the object with this bucket and key unreadable for the server; create a missing one."""


@pytest.fixture(scope="session")
def unreadable_object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an object that no server can read without the customer key of its writer."""
    return write_unreadable_object(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def make_unreadable(minio_server: MinioServer, unreadable_object_file: Path) -> MakeUnreadable:
    def replace_object(bucket: str, key: str) -> None:
        replace_by_unreadable(minio_server, unreadable_object_file, bucket, key)

    return replace_object
