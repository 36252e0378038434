"""A Rowdrop that ./run.sh has started, and a Chromium; the tests are skipped without a Chromium."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject
from playwright.sync_api import Browser

from local.servers import MinioServer, RedisServer, ServerUser
from tests.api_process import ApiEnvironment
from tests.browser.chromium import HOW_TO_GET_ONE, RowdropPage, find_chromium, launch_chromium
from tests.conftest import create_bucket
from tests.system.running import RunShProcess, find_free_port, run_rowdrop, wait_until

OpenPage = Callable[..., RowdropPage]
"""Opens a new tab of the page; the arguments are options of the browser's context."""


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = find_chromium()
    if path is None and os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(HOW_TO_GET_ONE)
    if path is None:
        pytest.skip(HOW_TO_GET_ONE)
    return path


# One per module: while it runs, asyncio.run() cannot be used in this thread.
@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with launch_chromium(chromium_path) as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunShProcess]:
    """Start one Rowdrop for all browser tests."""
    yield from run_rowdrop(tmp_path_factory.mktemp("browser"), FLOWER_PORT=str(find_free_port()))


@pytest.fixture(scope="session")
def s3(shared_rowdrop: RunShProcess) -> Minio:
    """Return a client of its MinIO with a user's credentials."""
    return shared_rowdrop.open_client()


@pytest.fixture
def rowdrop(shared_rowdrop: RunShProcess, s3: Minio) -> RunShProcess:
    """Return the Rowdrop with an empty source bucket."""
    objects = [
        DeleteObject(info.object_name or "") for info in s3.list_objects("src-data", recursive=True)
    ]
    assert list(s3.remove_objects("src-data", objects)) == []
    wait_until(lambda: shared_rowdrop.get("/data")[1].split() == [b"[]"])
    wait_until(lambda: shared_rowdrop.get("/errors")[1].split() == [b"[]"])
    return shared_rowdrop


@pytest.fixture
def open_tab(browser: Browser, rowdrop: RunShProcess) -> Iterator[OpenPage]:
    """Return a function that opens a tab; at the end no tab may have complained."""
    tabs: list[RowdropPage] = []
    address = f"http://127.0.0.1:{rowdrop.credentials['API_PORT']}"

    def open_tab(path: str = "/", **context_options: object) -> RowdropPage:
        tab = RowdropPage(browser, address, **context_options)
        tabs.append(tab)
        return tab.open(path)

    yield open_tab
    for tab in tabs:
        tab.close()


@pytest.fixture
def page(open_tab: OpenPage) -> RowdropPage:
    """Return a tab with the page."""
    return open_tab()


@pytest.fixture
def bare_api(
    minio_server: MinioServer, minio_client: Minio, tmp_path: Path
) -> Iterator[ApiEnvironment]:
    """Return an API without workers, which a test starts after it has published rows."""
    with RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", "a-password")) as redis:
        buckets = create_bucket(minio_client), create_bucket(minio_client)
        yield ApiEnvironment(minio_server, buckets[0], redis, tmp_path / "api.log", buckets[1])
