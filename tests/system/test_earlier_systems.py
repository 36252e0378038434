"""Tests of the use cases of the earlier systems, which README.md lists."""

import http.client
import io
import json
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio

from tests.archives import zip_of
from tests.system.running import Run, cleaned, until

CSV = b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start a Rowdrop configured like them: bucket `source`, image copies, public output."""
    for folder in cleaned(tmp_path_factory.mktemp("rowdrop") / "data"):
        run = Run(folder, "--empty", SOURCE_BUCKET="source", IMAGES="copy", PUBLIC_OUTPUT="true")
        yield run.ready()
        assert run.end(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def s3(rowdrop: Run) -> Minio:
    known = rowdrop.credentials
    return Minio(
        urlsplit(known["MINIO_ENDPOINT"]).netloc, known["MINIO_ACCESS_KEY"], known["MINIO_SECRET_KEY"], secure=False
    )


def ask(rowdrop: Run, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", int(rowdrop.credentials["API_PORT"]), timeout=70)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def anybody_gets(rowdrop: Run, path: str) -> tuple[int, bytes]:
    return rowdrop.get(path, "MINIO_PORT")


def put(s3: Minio, key: str, body: bytes) -> None:
    s3.put_object("source", key, io.BytesIO(body), len(body))


def users(rowdrop: Run, query: str = "") -> list[str]:
    status, rows = ask(rowdrop, "GET", f"/data{query}")
    assert status == 200, rows
    return [row["user_id"] for row in rows]


@pytest.fixture(autouse=True, scope="module")
def _dropped(rowdrop: Run, s3: Minio) -> None:
    put(s3, "1000.csv", CSV)
    put(s3, "1000.png", PNG)
    put(s3, "1001.csv", CSV.replace(b"946674000000", b"0"))
    put(s3, "users.zip", zip_of({"users/2000.csv": CSV, "users/2000.jpg": b"jpg", "__MACOSX/users/._2000.csv": b"x"}))
    until(lambda: users(rowdrop) == ["1000", "1001", "2000"])
    until(lambda: users(rowdrop, "?is_image_exists=True") == ["1000", "2000"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_get_data_is_a_list_of_rows(rowdrop: Run, slash: str) -> None:
    status, rows = ask(rowdrop, "GET", f"/data{slash}")
    assert status == 200
    assert rows[0] == {
        "user_id": "1000",
        "first_name": "Ivan",
        "last_name": "Ivanov",
        "birthts": 946674000000,
        "img_path": "processed-data/images/1000.png",
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?is_image_exists=True", ["1000", "2000"]),
        ("?is_image_exists=False", ["1001"]),
        ("?is_image_exists=true&min_age=20", ["1000", "2000"]),
        ("?min_age=50", ["1001"]),
        ("?max_age=49", ["1000", "2000"]),
        ("?min_age=0&max_age=150", ["1000", "1001", "2000"]),
    ],
)
def test_the_filters_are_bounds(rowdrop: Run, query: str, found: list[str]) -> None:
    assert users(rowdrop, query) == found
    status, stats = ask(rowdrop, "GET", f"/stats{query}")
    assert (status, stats["count"]) == (200, len(found))


def test_a_flag_in_place_of_an_age_is_refused_with_what_is_allowed(rowdrop: Run) -> None:
    status, answer = ask(rowdrop, "GET", "/data?min_age=True")
    assert status == 400
    assert "min_age" in json.dumps(answer)


def test_stats_has_the_average_age(rowdrop: Run) -> None:
    status, stats = ask(rowdrop, "GET", "/stats")
    assert status == 200
    assert stats["count"] == 3
    assert stats["average_age"] > 20


def test_a_bare_post_is_queued_and_one_that_waits_says_updated(rowdrop: Run) -> None:
    for body in (None, b"", b"{}"):
        status, answer = ask(rowdrop, "POST", "/data", body)
        assert (status, answer["status"]) == (202, "queued")
    status, answer = ask(rowdrop, "POST", "/data?wait=60")
    assert (status, answer["status"]) == (200, "updated")
    status, task = ask(rowdrop, "GET", f"/tasks/{answer['task_id']}")
    assert (status, task["state"]) == (200, "done")


def test_the_results_lie_where_they_lay_and_anybody_may_read_them(rowdrop: Run) -> None:
    status, body = anybody_gets(rowdrop, "/processed-data/output.csv")
    assert status == 200
    assert body.decode().splitlines() == [
        "user_id,first_name,last_name,birthts,img_path",
        "1000,Ivan,Ivanov,946674000000,processed-data/images/1000.png",
        "1001,Ivan,Ivanov,0,",
        "2000,Ivan,Ivanov,946674000000,processed-data/images/2000.jpg",
    ]
    assert anybody_gets(rowdrop, "/processed-data/images/1000.png") == (200, PNG)
    assert anybody_gets(rowdrop, "/processed-data/images/2000.jpg") == (200, b"jpg")


def test_what_was_dropped_is_for_nobody_else(rowdrop: Run) -> None:
    for path in (
        "/source/1000.csv",
        "/source/users.zip",
        "/source/",
        "/processed-data/",
        "/processed-data/bundles.json",
    ):
        assert anybody_gets(rowdrop, path)[0] == 403


def test_a_zip_that_is_replaced_or_removed_takes_its_rows_along(rowdrop: Run, s3: Minio) -> None:
    put(s3, "users.zip", zip_of({"3000.csv": CSV}))
    until(lambda: users(rowdrop) == ["1000", "1001", "3000"])
    s3.remove_object("source", "users.zip")
    until(lambda: users(rowdrop) == ["1000", "1001"])
    put(s3, "users.zip", b"no zip")
    until(lambda: [error for error in ask(rowdrop, "GET", "/errors")[1] if error["key"] == "users.zip"])
    (error,) = ask(rowdrop, "GET", "/errors")[1]
    assert "no zip archive" in error["reason"]
