"""Large, aborted, slow and concurrent file transfers with real API processes and a real bucket."""

import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from api.web.transfers import MAX_LARGE_UPLOADS
from shared.formats.output_csv import OUTPUT_HEADER
from shared.object_store import ObjectNotFound
from tests.api_process import ApiEnvironment, ApiProcess, ApiResponse, wait_until

PNG = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 1_000_000
LARGE = PNG + bytes(range(256)) * 60_000  # 15 MB
NAME = "ü 1+%.png"
PATH = "/files/%C3%BC%201%2B%25.png"


def put(api_environment: ApiEnvironment, path: str, body: bytes) -> ApiResponse:
    return api_environment.api.request("PUT", path, body)


@contextmanager
def open_stalled_client(api_environment: ApiEnvironment, sends: bytes) -> Iterator[socket.socket]:
    """Return a client that sent `sends` and stalls; its receive buffer is small."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", api_environment.api.port))
        client.sendall(sends)
        yield client


@pytest.mark.parametrize("size", [1, 100, MEGABYTE, len(LARGE), 20 * MEGABYTE])
def test_files_route_stores_and_returns_same_bytes(
    api_environment: ApiEnvironment, size: int
) -> None:
    body = (LARGE * 2)[:size]
    answer = put(api_environment, PATH, body)
    assert (answer.status, answer.headers["location"]) == (202, "/data/%C3%BC%201%2B%25")
    stored = api_environment.source.get(NAME)
    assert (stored.body, stored.etag) == (body, answer.json["etag"])
    back = api_environment.api.get(PATH)
    assert (back.status, back.body, back.headers["etag"]) == (200, body, f'"{stored.etag}"')
    assert api_environment.api.get(PATH, If_None_Match=back.headers["etag"]).status == 304
    assert api_environment.api.request("DELETE", PATH).status == 202
    with pytest.raises(ObjectNotFound):
        api_environment.source.get(NAME)
    assert api_environment.api.get(PATH).status == 404


def test_files_route_refuses_too_large_file_before_reading(api_environment: ApiEnvironment) -> None:
    answer = put(api_environment, PATH, bytes(20 * MEGABYTE + 1))
    assert (answer.status, answer.json["most_bytes"]) == (413, 20 * MEGABYTE)
    assert put(api_environment, "/files/1.csv", bytes(MEGABYTE + 1)).status == 413
    with open_stalled_client(
        api_environment,
        b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
    ) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_files_route_answers_expect_continue(api_environment: ApiEnvironment) -> None:
    head = (
        b"PUT /files/1.png HTTP/1.1\r\n"
        b"Host: localhost\r\n"
        b"Content-Length: 4\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    with open_stalled_client(api_environment, head) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"body")
        assert client.recv(100).startswith(b"HTTP/1.1 202 ")
    assert api_environment.source.get("1.png").body == b"body"


def run_curl(command: str, folder: Path) -> str:
    """Run a command line of a person in a folder; return what curl prints."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        "-X PUT -d @Mary.csv",
        "-X PUT --data-binary @Mary.csv",
        "-X PUT -F file=@Mary.csv",
        "-T Mary.csv -H 'Content-Encoding: gzip'",
    ],
)
def test_files_route_names_command_that_works(
    api_environment: ApiEnvironment, tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "Mary.csv").write_bytes(b"first_name,last_name,birthts\nMary,Ray,1\n")
    url = f"http://127.0.0.1:{api_environment.api.port}/files/Mary.csv"
    answer = json.loads(run_curl(f"curl -s {wrong} {url}", tmp_path))
    assert answer["status"] == 415
    with pytest.raises(ObjectNotFound):
        api_environment.source.get("Mary.csv")
    command = answer["detail"].partition("Send the file with: ")[2]
    assert command == f"curl --upload-file Mary.csv {url}"
    assert json.loads(run_curl(command, tmp_path))["status"] == "stored"
    assert api_environment.source.get("Mary.csv").body == (tmp_path / "Mary.csv").read_bytes()


@pytest.mark.parametrize("size", [1000, 5 * MEGABYTE])
def test_files_route_aborted_upload_changes_nothing(
    api_environment: ApiEnvironment, size: int
) -> None:
    api_environment.source.put("1.png", b"before")
    head = b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    with open_stalled_client(api_environment, head + bytes(size // 2)):
        pass
    assert put(api_environment, "/files/2.png", b"after").status == 202
    assert api_environment.source.get("1.png").body == b"before"


def test_files_route_refuses_chunked_upload(api_environment: ApiEnvironment) -> None:
    head = (
        b"PUT /files/1.png HTTP/1.1\r\n"
        b"Host: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"5\r\nabcde\r\n"
    )
    with open_stalled_client(api_environment, head) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")


def test_files_route_slow_transfers_do_not_block_other_requests(
    api_environment: ApiEnvironment,
) -> None:
    api_environment.source.put("large.png", LARGE * 4)
    upload = b"PUT /files/%d.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    download = b"GET /files/large.png HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as slow:
        for number in range(4 * MAX_LARGE_UPLOADS):
            slow.enter_context(open_stalled_client(api_environment, upload % number + bytes(2000)))
            slow.enter_context(open_stalled_client(api_environment, download))

        assert {api_environment.api.get("/data").status for _ in range(20)} == {200}
        assert put(api_environment, "/files/1.csv", b"small").status == 202
        assert api_environment.api.get("/files/1.csv").body == b"small"
        assert api_environment.api.get("/files/large.png").body == LARGE * 4
        # Slow uploads may hold all threads of a process.
        answer = put(api_environment, "/files/more.png", LARGE)
        assert answer.status == 202 or answer.json["type"] == "/docs#unavailable"
    wait_until(lambda: put(api_environment, "/files/more.png", LARGE).status == 202)


def test_files_route_head_of_large_file_has_no_body(api_environment: ApiEnvironment) -> None:
    api_environment.source.put("large.png", LARGE)
    head = api_environment.api.request("HEAD", "/files/large.png")
    assert (head.status, head.headers["content-length"]) == (200, str(len(LARGE)))


def test_files_route_survives_aborted_downloads(api_environment: ApiEnvironment) -> None:
    api_environment.source.put("large.png", LARGE * 4)
    for _ in range(16):
        with open_stalled_client(
            api_environment, b"GET /files/large.png HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ) as client:
            client.recv(100)
    assert api_environment.api.get("/files/large.png").body == LARGE * 4


def test_files_route_large_files_use_little_memory_and_disk(
    api_environment: ApiEnvironment,
) -> None:
    def memory() -> int:
        return sum(
            process.memory_info().rss
            for process in psutil.Process(api_environment.api.pid).children()
        )

    with ThreadPoolExecutor(4) as threads:
        body = bytes(20 * MEGABYTE)
        list(
            threads.map(lambda number: put(api_environment, f"/files/{number}.png", body), range(4))
        )
        before = memory()
        statuses = list(
            threads.map(
                lambda number: put(api_environment, f"/files/{number}.png", body).status, range(24)
            )
        )
        sizes = list(
            threads.map(
                lambda number: len(api_environment.api.get(f"/files/{number % 4}.png").body),
                range(24),
            )
        )
        after = memory()
    assert set(statuses) <= {202, 503}
    assert 202 in statuses
    assert len(body) in sizes
    assert after - before < 40 * MEGABYTE
    assert open_files(api_environment) == set()


def open_files(api_environment: ApiEnvironment) -> set[str]:
    """Return the paths of regular files that the API's processes have open, except its log."""
    processes = psutil.Process(api_environment.api.pid).children()
    return {file.path for process in processes for file in process.open_files()} - {
        str(api_environment.api.log)
    }


def test_image_route_returns_image_from_bucket(api_environment: ApiEnvironment) -> None:
    api_environment.source.put("1.png", LARGE)
    api_environment.source.put("2.png", b"<html>")
    api_environment.publish_output(
        OUTPUT_HEADER + b"1,Ann,Lee,0,src-data/1.png\n2,Ann,Lee,0,src-data/2.png\n"
    )
    wait_until(lambda: api_environment.shows_row_count(2))
    answer = api_environment.api.get("/data/1/image")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "image/png", LARGE)
    assert api_environment.api.get("/data/2/image").status == 403


def test_files_route_lists_bucket_in_pages(api_environment: ApiEnvironment) -> None:
    for number in range(30):
        api_environment.source.put(f"{number:04}.csv", b"x")
    listed = []
    path = "/files?limit=7&prefix=00"
    while path:
        answer = api_environment.api.get(path)
        listed += [file["name"] for file in answer.json]
        path = answer.headers.get("link", "<>").partition(">")[0].strip("<")
    assert listed == [f"{number:04}.csv" for number in range(30)]


def test_files_route_refuses_at_once_without_bucket(api_environment: ApiEnvironment) -> None:
    environment = {**api_environment.api.environment, "SOURCE_BUCKET": "no-such-bucket"}
    with ApiProcess(environment, api_environment.api.log) as api:
        for method, path in (
            ("GET", "/files"),
            ("GET", "/files/1.csv"),
            ("DELETE", "/files/1.csv"),
        ):
            assert api.request(method, path).status == 503
        assert [
            api.request("PUT", "/files/1.png", bytes(size)).status for size in (10, 5 * MEGABYTE)
        ] == [503, 503]
        assert api.get("/data").status == 200
