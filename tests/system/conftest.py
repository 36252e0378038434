"""Fixtures: one Rowdrop per module, started by ./run.sh, for tests that only use it."""

from collections.abc import Iterator

import pytest
from minio import Minio

from tests.system.running import RunShProcess, find_free_port, run_rowdrop


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunShProcess]:
    """Start a Rowdrop with an empty source bucket, one per module."""
    yield from run_rowdrop(tmp_path_factory.mktemp("rowdrop"), FLOWER_PORT=str(find_free_port()))


@pytest.fixture(scope="module")
def s3(rowdrop: RunShProcess) -> Minio:
    """Return a client of its MinIO with a user's credentials."""
    return rowdrop.open_client()
