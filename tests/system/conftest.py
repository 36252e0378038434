"""Fixtures: one Rowdrop per module, started by ./run.sh, for tests that only use it."""

import signal
from collections.abc import Iterator

import pytest
from minio import Minio

from tests.system.running import RunShProcess, clean_up_processes, find_free_port


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunShProcess]:
    """Start a Rowdrop with an empty source bucket, one per module."""
    for folder in clean_up_processes(tmp_path_factory.mktemp("rowdrop") / "data"):
        process = RunShProcess(folder, "--empty", FLOWER_PORT=str(find_free_port()))
        yield process.wait_until_ready()
        assert process.stop_with_signal(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def s3(rowdrop: RunShProcess) -> Minio:
    """Return a client of its MinIO with a user's credentials."""
    credentials = rowdrop.credentials
    endpoint: str = credentials["MINIO_ENDPOINT"].removeprefix("http://")
    return Minio(
        endpoint, credentials["MINIO_ACCESS_KEY"], credentials["MINIO_SECRET_KEY"], secure=False
    )
