"""Options and fixtures of the fault tests: the form, the seed, and factories of worlds."""

import logging
import random
from collections.abc import Callable, Iterator

import pytest
from minio import Minio
from redis import Redis

from local.servers import MinioServer, RedisServer
from shared.s3.objects import S3ObjectStore
from tests.conftest import create_bucket, open_bucket
from tests.faults.case_form import CaseForm
from tests.faults.parts import Components
from tests.faults.servers import FakeBucketPair, RealBucketPair
from tests.faults.world import World
from tests.integration.conftest import rowdrop, settings

__all__ = ["rowdrop", "settings"]

WorldFactory = Callable[[type[Components]], World]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "long"),
        default="short",
        help="how many generated cases are run",
    )
    parser.addoption(
        "--faults-seed", type=int, default=None, help="which ones (0; in the long form drawn)"
    )


def _read_form(config: pytest.Config) -> CaseForm:
    long = config.getoption("--faults", "short") == "long"
    seed = config.getoption("--faults-seed", None)
    if seed is None:
        seed = random.randrange(1 << 32) if long else 0
        config.option.faults_seed = seed
    return CaseForm(long, seed)


def pytest_report_header(config: pytest.Config) -> str:
    form = _read_form(config)
    return f"faults: the {'long' if form.long else 'short'} form, seed {form.seed}"


@pytest.fixture(scope="session")
def form(pytestconfig: pytest.Config) -> CaseForm:
    return _read_form(pytestconfig)


@pytest.fixture
def silence_warnings() -> Iterator[None]:
    """Disable log records up to the level WARNING for one test.

    Histories log millions of warnings. Errors are still logged.
    """
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def make_world(redis: "Redis", redis_server: RedisServer) -> WorldFactory:
    """Return a factory of worlds on fake buckets, each of which empties the real Redis first."""
    return lambda components: World(redis, redis_server.url, FakeBucketPair, components)


@pytest.fixture
def make_real_world(
    minio_server: MinioServer, minio_redis_server: RedisServer, minio_client: Minio
) -> Iterator[WorldFactory]:
    """Provide a factory of worlds on a real MinIO and on the Redis that gets its events.

    Each world has its own buckets.
    """

    def store() -> S3ObjectStore:
        return open_bucket(create_bucket(minio_client), minio_server.endpoint)

    with Redis.from_url(minio_redis_server.url, socket_timeout=10) as redis:

        def servers(_: Callable[[], float]) -> RealBucketPair:
            return RealBucketPair(store(), store(), minio_client, redis)

        yield lambda components: World(redis, minio_redis_server.url, servers, components)
