"""Tests of the daily work of a data engineer with Rowdrop, through MinIO and HTTP only."""

import csv
import http.client
import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import psutil
import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject

from tests.system.running import RunShProcess, list_processes, wait_until

SOURCE = "src-data"
OUTPUT = "processed-data"
FORM_OF_THE_PUBLIC_TASK = b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n"


def put(s3: Minio, key: str, body: bytes = b"image") -> None:
    s3.put_object(SOURCE, key, io.BytesIO(body), len(body))


def empty(s3: Minio) -> None:
    names = [
        DeleteObject(info.object_name or "") for info in s3.list_objects(SOURCE, recursive=True)
    ]
    assert list(s3.remove_objects(SOURCE, names)) == []


def output(s3: Minio) -> bytes:
    answer = s3.get_object(OUTPUT, "output.csv")
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def line_of(s3: Minio, user_id: str) -> str | None:
    lines = output(s3).decode().splitlines()[1:]
    return next((line for line in lines if line.startswith(f"{user_id},")), None)


def get(rowdrop: RunShProcess, path: str) -> Any:  # noqa: ANN401
    status, body = rowdrop.get(path)
    assert status == 200, body
    return json.loads(body)


def row_of(rowdrop: RunShProcess, user_id: str) -> dict[str, Any]:
    return next((row for row in get(rowdrop, "/data") if row["user_id"] == user_id), {})


def errors_of(rowdrop: RunShProcess, user_id: str) -> list[Any]:
    return [error for error in get(rowdrop, "/errors") if error["user_id"] == user_id]


def post(rowdrop: RunShProcess, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(rowdrop.credentials["API_PORT"]), timeout=70
    )
    try:
        connection.request("POST", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def soon(condition: Callable[[], Any]) -> None:
    """Wait up to ten seconds, which is long before a sweep, so only the event can be the cause."""
    wait_until(condition, timeout_s=10)


@pytest.fixture(autouse=True)
def _empty_bucket(rowdrop: RunShProcess, s3: Minio) -> None:
    empty(s3)
    wait_until(lambda: get(rowdrop, "/data") == [] and get(rowdrop, "/errors") == [])


def test_rowdrop_publishes_user_from_creation_to_deletion(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "0001.csv", FORM_OF_THE_PUBLIC_TASK)
    soon(lambda: line_of(s3, "0001") == "0001,Ivan,Ivanov,946674000000,")
    row = {
        "user_id": "0001",
        "first_name": "Ivan",
        "last_name": "Ivanov",
        "birthts": 946674000000,
        "img_path": None,
    }
    soon(lambda: row_of(rowdrop, "0001") == row)

    put(s3, "0001.jpg")
    soon(lambda: line_of(s3, "0001") == "0001,Ivan,Ivanov,946674000000,src-data/0001.jpg")
    soon(lambda: row_of(rowdrop, "0001").get("img_path") == "src-data/0001.jpg")

    s3.remove_object(SOURCE, "0001.jpg")
    soon(lambda: line_of(s3, "0001") == "0001,Ivan,Ivanov,946674000000,")
    soon(lambda: row_of(rowdrop, "0001") == row)

    put(s3, "0001.csv", b"first_name:last_name:birthts\nIvan:Ivanov:1\n")
    soon(lambda: errors_of(rowdrop, "0001"))
    (error,) = errors_of(rowdrop, "0001")
    assert (error["kind"], error["key"], error["line"]) == ("held", "0001.csv", 1)
    assert "separated" in error["reason"]
    assert line_of(s3, "0001") == "0001,Ivan,Ivanov,946674000000,"

    put(s3, "0001.csv", b"first_name,last_name,birthts\nIvan,Petrov,-946674000000\n")
    soon(lambda: line_of(s3, "0001") == "0001,Ivan,Petrov,-946674000000,")
    soon(lambda: errors_of(rowdrop, "0001") == [])

    s3.remove_object(SOURCE, "0001.csv")
    soon(lambda: line_of(s3, "0001") is None)
    soon(lambda: not row_of(rowdrop, "0001"))


def test_rowdrop_publishes_hundred_users_and_rebuilds_same_bytes(
    rowdrop: RunShProcess, s3: Minio
) -> None:
    generator = random.Random(1)
    expected = {}
    for number in range(1000, 1100):
        birthts = generator.randrange(-(10**12), 10**12)
        has_image = generator.random() < 0.8
        put(
            s3,
            f"{number}.csv",
            f"first_name, last_name, birthts\nName{number}, Family, {birthts}\n".encode(),
        )
        if has_image:
            put(s3, f"{number}.png")
        path = f"src-data/{number}.png" if has_image else ""
        expected[str(number)] = [str(number), f"Name{number}", "Family", str(birthts), path]
    expected_rows = [expected[user_id] for user_id in sorted(expected)]
    wait_until(lambda: list(csv.reader(io.StringIO(output(s3).decode())))[1:] == expected_rows)
    before = output(s3)
    status, answer = post(rowdrop, "/data?wait=60")
    assert (status, answer["status"], answer["done"]) == (200, "updated", 100)
    assert output(s3) == before
    assert len(get(rowdrop, "/data")) == 100


def test_api_filters_and_stats_use_full_years(rowdrop: RunShProcess, s3: Minio) -> None:
    today = datetime.now(UTC).date()

    def birthts_of(years_ago: int, days: int = 0) -> int:
        day = date(today.year - years_ago, today.month, min(today.day, 28)).toordinal() + days
        return (day - date(1970, 1, 1).toordinal()) * 86_400_000

    birth_times = {
        "just-20": birthts_of(20, -3),
        "not-yet-20": birthts_of(20, 3),
        "old": birthts_of(80, -3),
    }
    for user, birthts in birth_times.items():
        put(s3, f"{user}.csv", f"first_name,last_name,birthts\n,,{birthts}\n".encode())
    put(s3, "old.png")
    wait_until(lambda: len(get(rowdrop, "/data")) == 3 and row_of(rowdrop, "old").get("img_path"))

    def users(query: str) -> list[str]:
        return [row["user_id"] for row in get(rowdrop, f"/data{query}")]

    assert users("?min_age=20") == ["just-20", "old"]
    assert users("/?max_age=19") == ["not-yet-20"]
    assert users("?min_age=20&max_age=20&is_image_exists=FALSE") == ["just-20"]
    assert users("?is_image_exists=1") == ["old"]
    stats = get(rowdrop, "/stats?max_age=20")
    assert (stats["count"], stats["average_age"], stats["filters"]) == (2, 19.5, {"max_age": 20})
    assert stats["average_birthts"] == round(
        (birth_times["just-20"] + birth_times["not-yet-20"]) / 2
    )
    assert get(rowdrop, "/stats?min_age=500")["message"] == "Filter returned no objects"
    status, refusal = rowdrop.get("/data?min_agee=1")
    assert status == 400
    assert b"min_agee" in refusal


def test_errors_route_explains_ignored_key(rowdrop: RunShProcess, s3: Minio) -> None:
    def is_listed() -> bool:
        errors = get(rowdrop, "/errors")
        return any(error["key"] == "1.CSV" and "rename" in error["reason"] for error in errors)

    put(s3, "1.CSV", FORM_OF_THE_PUBLIC_TASK)
    soon(is_listed)
    s3.remove_object(SOURCE, "1.CSV")
    soon(lambda: get(rowdrop, "/errors") == [])


def test_check_command_reports_manual_edits(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "a.csv", FORM_OF_THE_PUBLIC_TASK)
    put(s3, "b.csv", b"broken")
    soon(lambda: errors_of(rowdrop, "b") and line_of(s3, "a"))
    result = rowdrop.run_command("check")
    counts = "2 users with a CSV, in 2 files and 0 bundles, compared with 1 row and 1 reject\n"
    assert (result.returncode, result.stdout) == (0, f"{counts}0 differences\n")
    edited = output(s3).replace(b"Ivanov", b"Edited")
    rowdrop.open_client_as("publisher").put_object(
        OUTPUT, "output.csv", io.BytesIO(edited), len(edited)
    )
    result = rowdrop.run_command("check")
    assert (result.returncode, result.stdout) == (
        1,
        f"a: differs in last_name\n{counts}1 difference\n",
    )
    wait_until(lambda: line_of(s3, "a") == "a,Ivan,Ivanov,946674000000,")  # by watchdog and sweep


def test_flower_requires_password(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "a.csv", FORM_OF_THE_PUBLIC_TASK)
    soon(lambda: line_of(s3, "a"))
    import base64

    known = rowdrop.credentials
    name_and_password = f"{known['FLOWER_USER']}:{known['FLOWER_PASSWORD']}"
    sign_in = base64.b64encode(name_and_password.encode()).decode()

    def tasks() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", int(known["FLOWER_PORT"]), timeout=10)
        try:
            connection.request(
                "GET",
                "/tasks/datatable?draw=1&start=0&length=50&search[value]=&order[0][column]=0"
                "&order[0][dir]=asc&columns[0][data]=name",
                headers={"Authorization": f"Basic {sign_in}"},
            )
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    wait_until(lambda: "refresh" in tasks())


PROCESS_COUNTS = {
    "worker.listener": 1,
    "worker.publisher": 1,
    "worker.app events events-2 bulk": 6,
    "api.asgi": 3,
    "worker.commands.flower_conf": 1,
    "minio/data": 1,
    "redis.conf": 1,
    "supervisor.supervisord": 1,
    "local.run": 1,
}
"""Maps words in the command line of the processes of docs/architecture.md to their number."""


def test_rowdrop_runs_only_documented_processes(rowdrop: RunShProcess, s3: Minio) -> None:
    """The processes that do not sweep have no pandas, also after requests of each format."""
    put(s3, "shape.csv", FORM_OF_THE_PUBLIC_TASK)
    soon(lambda: row_of(rowdrop, "shape"))
    for path in (
        "/data?sort=-birthts&q=ivan",
        "/data?format=csv",
        "/data?format=parquet",
        "/stats",
    ):
        assert rowdrop.get(path)[0] == 200
    # A process of a pool may be replaced now: for a moment it is missing.
    wait_until(lambda: count_processes(rowdrop) == (PROCESS_COUNTS, sum(PROCESS_COUNTS.values())))
    with_pandas = set()
    for process in list_processes(rowdrop.folder):
        with suppress(psutil.NoSuchProcess):
            if "/pandas/" in " ".join(region.path for region in process.memory_maps()):
                with_pandas.add(" ".join(process.cmdline()))
    assert with_pandas
    assert all("worker.app" in text for text in with_pandas)


def count_processes(rowdrop: RunShProcess) -> tuple[dict[str, int], int]:
    """Return the number of processes with each of the documented words, and of all."""
    commands = []
    for process in list_processes(rowdrop.folder):
        with suppress(psutil.NoSuchProcess):
            commands.append(" ".join(process.cmdline()))
    counts = {words: sum(words in text for text in commands) for words in PROCESS_COUNTS}
    return counts, len(commands)
