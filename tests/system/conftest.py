"""Fixtures: one Rowdrop per module, started by ./run.sh, for tests that only use it."""

import signal
from collections.abc import Iterator

import pytest
from minio import Minio

from tests.system.running import Run, cleaned


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start a Rowdrop with an empty source bucket, one per module."""
    for folder in cleaned(tmp_path_factory.mktemp("rowdrop") / "data"):
        run = Run(folder, "--empty")
        yield run.ready()
        assert run.end(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def s3(rowdrop: Run) -> Minio:
    """Return a client of its MinIO with a user's credentials."""
    known = rowdrop.credentials
    endpoint: str = known["MINIO_ENDPOINT"].removeprefix("http://")
    return Minio(endpoint, known["MINIO_ACCESS_KEY"], known["MINIO_SECRET_KEY"], secure=False)
