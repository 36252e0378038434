"""Tests of the use cases of the earlier systems, which docs/migrating.md lists."""

import http.client
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from minio import Minio

from tests.archives import make_zip
from tests.system.running import RunShProcess, run_rowdrop, wait_until

CSV = b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunShProcess]:
    """Start a Rowdrop configured like them: bucket `source`, image copies, public output."""
    settings = {"SOURCE_BUCKET": "source", "IMAGES": "copy", "PUBLIC_OUTPUT": "true"}
    yield from run_rowdrop(tmp_path_factory.mktemp("rowdrop"), **settings)


@pytest.fixture(scope="module")
def s3(rowdrop: RunShProcess) -> Minio:
    return rowdrop.open_client()


def request_json(
    rowdrop: RunShProcess, method: str, path: str, body: bytes | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(rowdrop.credentials["API_PORT"]), timeout=70
    )
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def get_anonymously(rowdrop: RunShProcess, path: str) -> tuple[int, bytes]:
    return rowdrop.get(path, "MINIO_PORT")


def put(s3: Minio, key: str, body: bytes) -> None:
    s3.put_object("source", key, io.BytesIO(body), len(body))


def users(rowdrop: RunShProcess, query: str = "") -> list[str]:
    status, rows = request_json(rowdrop, "GET", f"/data{query}")
    assert status == 200, rows
    return [row["user_id"] for row in rows]


@pytest.fixture(autouse=True, scope="module")
def _drop_files(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "1000.csv", CSV)
    put(s3, "1000.png", PNG)
    put(s3, "1001.csv", CSV.replace(b"946674000000", b"0"))
    put(
        s3,
        "users.zip",
        make_zip(
            {"users/2000.csv": CSV, "users/2000.jpg": b"jpg", "__MACOSX/users/._2000.csv": b"x"}
        ),
    )
    wait_until(lambda: users(rowdrop) == ["1000", "1001", "2000"])
    wait_until(lambda: users(rowdrop, "?is_image_exists=True") == ["1000", "2000"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_data_route_returns_list_of_rows(rowdrop: RunShProcess, slash: str) -> None:
    status, rows = request_json(rowdrop, "GET", f"/data{slash}")
    assert status == 200
    assert rows[0] == {
        "user_id": "1000",
        "first_name": "Ivan",
        "last_name": "Ivanov",
        "birthts": 946674000000,
        "img_path": "processed-data/images/1000.png",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?is_image_exists=True", ["1000", "2000"]),
        ("?is_image_exists=False", ["1001"]),
        ("?is_image_exists=true&min_age=20", ["1000", "2000"]),
        ("?min_age=50", ["1001"]),
        ("?max_age=49", ["1000", "2000"]),
        ("?min_age=0&max_age=150", ["1000", "1001", "2000"]),
    ],
)
def test_data_route_filters_are_inclusive_bounds(
    rowdrop: RunShProcess, query: str, expected: list[str]
) -> None:
    assert users(rowdrop, query) == expected
    status, stats = request_json(rowdrop, "GET", f"/stats{query}")
    assert (status, stats["count"]) == (200, len(expected))


def test_data_route_refuses_boolean_age_filter(rowdrop: RunShProcess) -> None:
    status, answer = request_json(rowdrop, "GET", "/data?min_age=True")
    assert status == 400
    assert "min_age" in json.dumps(answer)


def test_stats_route_returns_average_age(rowdrop: RunShProcess) -> None:
    status, stats = request_json(rowdrop, "GET", "/stats")
    assert status == 200
    assert stats["count"] == 3
    assert stats["average_age"] > 20


def test_post_data_is_queued_or_waits(rowdrop: RunShProcess) -> None:
    for body in (None, b"", b"{}"):
        status, answer = request_json(rowdrop, "POST", "/data", body)
        assert (status, answer["status"]) == (202, "queued")
    status, answer = request_json(rowdrop, "POST", "/data?wait=60")
    assert (status, answer["status"]) == (200, "updated")
    status, task = request_json(rowdrop, "GET", f"/tasks/{answer['task_id']}")
    assert (status, task["state"]) == (200, "done")


def test_public_output_is_readable_at_earlier_paths(rowdrop: RunShProcess) -> None:
    status, body = get_anonymously(rowdrop, "/processed-data/output.csv")
    assert status == 200
    assert body.decode().splitlines() == [
        "user_id,first_name,last_name,birthts,img_path",
        "1000,Ivan,Ivanov,946674000000,processed-data/images/1000.png",
        "1001,Ivan,Ivanov,0,",
        "2000,Ivan,Ivanov,946674000000,processed-data/images/2000.jpg",
    ]
    assert get_anonymously(rowdrop, "/processed-data/images/1000.png") == (200, PNG)
    assert get_anonymously(rowdrop, "/processed-data/images/2000.jpg") == (200, b"jpg")


def test_public_output_excludes_source_files(rowdrop: RunShProcess) -> None:
    for path in (
        "/source/1000.csv",
        "/source/users.zip",
        "/source/",
        "/processed-data/",
        "/processed-data/bundles.json",
    ):
        assert get_anonymously(rowdrop, path)[0] == 403


def test_rowdrop_removes_rows_of_replaced_or_deleted_zip(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "users.zip", make_zip({"3000.csv": CSV}))
    wait_until(lambda: users(rowdrop) == ["1000", "1001", "3000"])
    s3.remove_object("source", "users.zip")
    wait_until(lambda: users(rowdrop) == ["1000", "1001"])
    put(s3, "users.zip", b"no zip")
    wait_until(
        lambda: (
            "users.zip" in [error["key"] for error in request_json(rowdrop, "GET", "/errors")[1]]
        )
    )
    (error,) = request_json(rowdrop, "GET", "/errors")[1]
    assert "no zip archive" in error["reason"]
