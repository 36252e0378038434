"""The worker's parts on real servers, run step by step: nothing runs concurrently with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio
from redis import Redis

from local.ports import free_port
from local.servers import MinioServer, RedisServer
from shared.settings import Settings
from tests.api_process import ROWS, Stage, eventually
from tests.conftest import PASSWORD, USER, new_bucket
from tests.integration.stepping import Stepping
from worker.evidence import Watch


@pytest.fixture
def settings(redis: "Redis", minio_server: MinioServer, redis_server: RedisServer, minio_client: Minio) -> Settings:
    return Settings(
        minio_endpoint=minio_server.endpoint,
        minio_access_key=USER,
        minio_secret_key=PASSWORD,
        redis_url=redis_server.url,
        source_bucket=new_bucket(minio_client),
        output_bucket=new_bucket(minio_client),
    )


@pytest.fixture
def rowdrop(settings: Settings) -> Iterator[Stepping]:
    stepping = Stepping(settings)
    yield stepping
    stepping.close()


@pytest.fixture
def watch(rowdrop: Stepping) -> Watch:
    return rowdrop.new_watch()


@pytest.fixture
def stage(minio_server: MinioServer, minio_client: Minio, tmp_path: Path) -> Iterator[Stage]:
    with RedisServer(tmp_path / "redis", free_port(), "a-password") as redis:
        buckets = new_bucket(minio_client), new_bucket(minio_client)
        stage = Stage(minio_server, buckets[0], redis, tmp_path / "api.log", buckets[1])
        stage.store.put("output.csv", ROWS)
        with stage.api:
            eventually(stage.both_processes_follow)
            yield stage
