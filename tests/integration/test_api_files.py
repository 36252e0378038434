"""Large, aborted, slow and concurrent file transfers with real API processes and a real bucket."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from api.transfers import MOST_TRANSFERS
from shared.object_store import ObjectNotFound
from shared.output_csv import HEADER
from tests.api_process import Answer, ApiProcess, Stage, eventually

PNG = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 1_000_000
LARGE = PNG + bytes(range(256)) * 60_000  # 15 MB
NAME = "ü 1+%.png"
PATH = "/files/%C3%BC%201%2B%25.png"


def put(stage: Stage, path: str, body: bytes) -> Answer:
    return stage.api.ask("PUT", path, body)


@contextmanager
def opened(stage: Stage, sends: bytes) -> Iterator[socket.socket]:
    """Return a client that sent `sends` and stalls; its receive buffer is small."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", stage.api.port))
        client.sendall(sends)
        yield client


@pytest.mark.parametrize("size", [1, 100, MEGABYTE, len(LARGE), 20 * MEGABYTE])
def test_a_file_goes_into_the_bucket_and_back_as_it_is(stage: Stage, size: int) -> None:
    body = (LARGE * 2)[:size]
    answer = put(stage, PATH, body)
    assert (answer.status, answer.headers["location"]) == (202, "/data/%C3%BC%201%2B%25")
    stored = stage.source.get(NAME)
    assert (stored.body, stored.etag) == (body, answer.json["etag"])
    back = stage.api.get(PATH)
    assert (back.status, back.body, back.headers["etag"]) == (200, body, f'"{stored.etag}"')
    assert stage.api.get(PATH, If_None_Match=back.headers["etag"]).status == 304
    assert stage.api.ask("DELETE", PATH).status == 202
    with pytest.raises(ObjectNotFound):
        stage.source.get(NAME)
    assert stage.api.get(PATH).status == 404


def test_one_byte_more_than_may_be_is_refused_before_it_is_read(stage: Stage) -> None:
    answer = put(stage, PATH, bytes(20 * MEGABYTE + 1))
    assert (answer.status, answer.json["most_bytes"]) == (413, 20 * MEGABYTE)
    assert put(stage, "/files/1.csv", bytes(MEGABYTE + 1)).status == 413
    with opened(
        stage, b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    ) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_curls_question_whether_to_go_on_is_answered(stage: Stage) -> None:
    head = b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with opened(stage, head) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"body")
        assert client.recv(100).startswith(b"HTTP/1.1 202 ")
    assert stage.source.get("1.png").body == b"body"


@pytest.mark.parametrize("size", [1000, 5 * MEGABYTE])
def test_an_upload_that_breaks_off_changes_nothing(stage: Stage, size: int) -> None:
    stage.source.put("1.png", b"before")
    head = b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    with opened(stage, head + bytes(size // 2)):
        pass
    assert put(stage, "/files/2.png", b"after").status == 202
    assert stage.source.get("1.png").body == b"before"


def test_an_upload_in_chunks_is_refused(stage: Stage) -> None:
    head = b"PUT /files/1.png HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    with opened(stage, head) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")


def test_slow_uploads_and_downloads_leave_room_for_everything_else(stage: Stage) -> None:
    stage.source.put("large.png", LARGE * 4)
    upload = b"PUT /files/%d.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    download = b"GET /files/large.png HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as slow:
        for number in range(2 * MOST_TRANSFERS):
            slow.enter_context(opened(stage, upload % number + bytes(2000)))
            slow.enter_context(opened(stage, download))

        def is_full() -> bool:
            return {stage.api.get("/files/large.png", Range="bytes=0-2000000").status for _ in range(8)} == {503}

        eventually(is_full)
        assert {stage.api.get("/data").status for _ in range(20)} == {200}
        assert put(stage, "/files/1.csv", b"small").status == 202
        assert stage.api.get("/files/1.csv").body == b"small"
        busy = stage.api.get("/files/large.png")
        assert (busy.status, busy.json["type"]) == (503, "/docs#busy")
        assert "retry-after" in busy.headers
    eventually(lambda: {stage.api.get("/files/large.png").status for _ in range(8)} == {200})


def test_a_head_of_a_large_file_takes_no_place(stage: Stage) -> None:
    stage.source.put("large.png", LARGE)
    for _ in range(10 * MOST_TRANSFERS):
        head = stage.api.ask("HEAD", "/files/large.png")
        assert (head.status, head.headers["content-length"]) == (200, str(len(LARGE)))
    assert stage.api.get("/files/large.png").body == LARGE


def test_a_client_that_leaves_in_the_middle_of_a_large_file_gives_its_place_back(stage: Stage) -> None:
    stage.source.put("large.png", LARGE * 4)
    for _ in range(4 * MOST_TRANSFERS):
        with opened(stage, b"GET /files/large.png HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
            client.recv(100)
    eventually(lambda: stage.api.get("/files/large.png").body == LARGE * 4)


def test_large_files_take_little_memory_and_no_disk(stage: Stage) -> None:
    def memory() -> int:
        return sum(process.memory_info().rss for process in psutil.Process(stage.api.pid).children())

    with ThreadPoolExecutor(4) as threads:
        body = bytes(20 * MEGABYTE)
        list(threads.map(lambda number: put(stage, f"/files/{number}.png", body), range(4)))
        before = memory()
        statuses = list(threads.map(lambda number: put(stage, f"/files/{number}.png", body).status, range(24)))
        sizes = list(threads.map(lambda number: len(stage.api.get(f"/files/{number % 4}.png").body), range(24)))
        after = memory()
    assert set(statuses) <= {202, 503}
    assert 202 in statuses
    assert len(body) in sizes
    assert after - before < 40 * MEGABYTE
    assert open_files(stage) == set()


def open_files(stage: Stage) -> set[str]:
    """Return the paths of regular files that the API's processes have open, except its log."""
    processes = psutil.Process(stage.api.pid).children()
    return {file.path for process in processes for file in process.open_files()} - {str(stage.api.log)}


def test_an_image_is_shown_from_the_bucket(stage: Stage) -> None:
    stage.source.put("1.png", LARGE)
    stage.source.put("2.png", b"<html>")
    stage.publish(HEADER + b"1,Ann,Lee,0,src-data/1.png\n2,Ann,Lee,0,src-data/2.png\n")
    eventually(lambda: stage.every_process_shows(2))
    answer = stage.api.get("/data/1/image")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "image/png", LARGE)
    assert stage.api.get("/data/2/image").status == 403


def test_the_files_of_the_bucket_are_listed(stage: Stage) -> None:
    for number in range(30):
        stage.source.put(f"{number:04}.csv", b"x")
    listed, path = [], "/files?limit=7&prefix=00"
    while path:
        answer = stage.api.get(path)
        listed += [file["name"] for file in answer.json]
        path = answer.headers.get("link", "<>").partition(">")[0].strip("<")
    assert listed == [f"{number:04}.csv" for number in range(30)]


def test_without_the_bucket_files_are_refused_at_once_and_rows_are_served(stage: Stage) -> None:
    environment = {**stage.api.environment, "SOURCE_BUCKET": "no-such-bucket"}
    with ApiProcess(environment, stage.api.log) as api:
        for method, path in (("GET", "/files"), ("GET", "/files/1.csv"), ("DELETE", "/files/1.csv")):
            assert api.ask(method, path).status == 503
        assert [api.ask("PUT", "/files/1.png", bytes(size)).status for size in (10, 5 * MEGABYTE)] == [503, 503]
        assert api.get("/data").status == 200
