"""The worker's parts on real servers, run step by step: nothing runs concurrently with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio
from redis import Redis

from local.ports import find_free_port
from local.servers import MinioServer, RedisServer, ServerUser
from shared.settings import Settings
from tests.api_process import ONE_ROW_CSV, ApiEnvironment, wait_until
from tests.conftest import MINIO_PASSWORD, MINIO_USER, create_bucket
from tests.integration.stepping import RowdropHarness
from worker.services.state_parts import StateParts, build_state
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.watchdog import Watchdog


@pytest.fixture
def settings(
    redis: "Redis", minio_server: MinioServer, redis_server: RedisServer, minio_client: Minio
) -> Settings:
    return Settings(
        minio_endpoint=minio_server.endpoint,
        minio_access_key=MINIO_USER,
        minio_secret_key=MINIO_PASSWORD,
        redis_url=redis_server.url,
        source_bucket=create_bucket(minio_client),
        output_bucket=create_bucket(minio_client),
    )


@pytest.fixture
def rowdrop(settings: Settings) -> Iterator[RowdropHarness]:
    harness = RowdropHarness(settings)
    yield harness
    harness.close()


@pytest.fixture
def state(redis: "Redis") -> StateParts:
    return build_state(redis)


@pytest.fixture
def checks(rowdrop: RowdropHarness) -> WatchdogChecks:
    return rowdrop.create_checks()


@pytest.fixture
def watchdog(rowdrop: RowdropHarness, checks: WatchdogChecks) -> Watchdog:
    return rowdrop.create_watchdog(checks)


@pytest.fixture
def api_environment(
    minio_server: MinioServer, minio_client: Minio, tmp_path: Path
) -> Iterator[ApiEnvironment]:
    with RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", "a-password")) as redis:
        buckets = create_bucket(minio_client), create_bucket(minio_client)
        api_environment = ApiEnvironment(
            minio_server, buckets[0], redis, tmp_path / "api.log", buckets[1]
        )
        api_environment.store.put("output.csv", ONE_ROW_CSV)
        with api_environment.api:
            wait_until(api_environment.has_both_processes)
            yield api_environment
