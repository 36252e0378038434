"""Tests of `./run.sh` as a user runs it: its output, what it leaves behind, and its robustness."""

import functools
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from shared.redis_keys import LAST_SWEEP
from tests.system.running import (
    RunShProcess,
    clean_up_processes,
    find_bulk_worker,
    find_free_port,
    find_processes,
    list_processes,
    wait_until,
)

Start = Callable[..., RunShProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts ./run.sh, which is killed at the end of the test.

    Its arguments are the data folder, then the arguments and settings of ./run.sh.
    """
    runs: list[RunShProcess] = []

    def started(folder: Path, *arguments: str, **settings: str) -> RunShProcess:
        runs.append(RunShProcess(folder, *arguments, **settings))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a data folder and kill its processes after the test, even if the test fails."""
    yield from clean_up_processes(tmp_path / "data")


@pytest.fixture
def second_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a second data folder, as `folder`."""
    yield from clean_up_processes(tmp_path / "other data")


def test_run_sh_shows_sample_then_keeps_data(folder: Path, start: Start) -> None:
    ports = {name: str(find_free_port()) for name in ("MINIO_CONSOLE_PORT", "FLOWER_PORT")}
    first = start(folder, **ports).wait_until_ready()
    assert sum(user.startswith("sample-") for user in first.list_users()) > 0
    saved = first.credentials
    for name in ("API_PORT", "MINIO_CONSOLE_PORT", "FLOWER_PORT"):
        assert f"http://127.0.0.1:{saved[name]}" in first.output
    assert str(folder / ".env") in first.output
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert saved["MINIO_ROOT_PASSWORD"] not in first.output
    assert "already runs" in start(folder).wait_for_refusal()
    assert first.is_healthy()
    wait_until(lambda: first.get("/", "FLOWER_PORT")[0] == 401)

    assert first.stop_with_signal(signal.SIGTERM) == 0
    assert list_processes(folder) == []

    second = start(folder).wait_until_ready()
    assert second.credentials == {name: value for name, value in saved.items() if name not in ports}
    assert "Flower" not in second.output
    assert "Console" not in second.output
    assert find_processes(folder, "flower") == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(ports["MINIO_CONSOLE_PORT"])), timeout=5)
    assert second.list_users()
    assert second.stop_with_signal(signal.SIGINT) == 0
    assert list_processes(folder) == []


def test_run_sh_restarts_dead_and_stops_stale_processes(folder: Path, start: Start) -> None:
    run = start(folder, "--empty").wait_until_ready()
    assert run.list_users() == []
    for words in ("redis.conf", "minio/data", "worker.listener", "api.asgi:app"):
        process = find_processes(folder, words)[0]
        process.kill()
        process.wait(10)
    for words in ("redis.conf", "minio/data", "worker.listener", "api.asgi:app"):
        wait_until(functools.partial(find_processes, folder, words))
    wait_until(run.is_healthy)

    orphans = list_processes(folder)
    saved = run.credentials
    run.process.kill()
    run.process.wait()
    find_processes(folder, "supervisord")[0].kill()
    second = start(folder, "--empty").wait_until_ready()
    assert "Stopping orphan processes of a killed run" in second.output
    assert [process for process in orphans if process.is_running()] == []
    assert second.credentials == saved
    assert second.stop_with_signal(signal.SIGHUP) == 0
    assert list_processes(folder) == []


def test_run_sh_sweeps_regularly_after_death_of_bulk_worker(folder: Path, start: Start) -> None:
    """The watchdog would request an overdue sweep only after two intervals, and with its cause."""
    run = start(folder, "--empty", SWEEP_INTERVAL_S="15").wait_until_ready()
    with Redis.from_url(run.read_credentials_of("worker")["REDIS_URL"]) as redis:
        for _ in range(2):
            bulk_worker = find_bulk_worker(folder)
            bulk_worker.kill()
            redis.hdel(LAST_SWEEP, "cause")
            wait_until(lambda: redis.hget(LAST_SWEEP, "cause") == b"schedule")
    assert run.stop_with_signal(signal.SIGTERM) == 0
    assert list_processes(folder) == []


@pytest.mark.parametrize("tokens", [{}, {"API_TOKENS": "ci=a-token-that-the-test-has-set"}])
def test_run_sh_becomes_ready_when_tokens_are_required(
    folder: Path, start: Start, tokens: dict[str, str]
) -> None:
    run = start(folder, ALLOWED_HOSTS="rowdrop.example.org", **tokens).wait_until_ready()
    assert run.get("/data")[0] == 401
    assert run.get("/health/live")[0] == 200
    assert run.stop_with_signal(signal.SIGTERM) == 0


def test_run_sh_recreates_users_unknown_to_minio(folder: Path, start: Start) -> None:
    first = start(folder, "--empty").wait_until_ready()
    assert first.stop_with_signal(signal.SIGTERM) == 0
    users_digest = (folder / "minio" / "users-made").read_text()
    shutil.rmtree(folder / "minio" / "data" / ".minio.sys" / "config" / "iam")
    assert (
        folder / "minio" / "users-made"
    ).read_text() == users_digest  # so MinIO has no root access
    second = start(folder, "--empty").wait_until_ready()
    assert "created the users of MinIO" in second.output
    assert second.is_healthy()
    assert second.stop_with_signal(signal.SIGTERM) == 0


def test_run_sh_names_requested_port_that_is_taken(folder: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} is in use" in start(folder, FLOWER_PORT=str(port)).wait_for_refusal()
    assert list_processes(folder) == []


def test_run_sh_refuses_redis_that_minio_cannot_reach(folder: Path, start: Start) -> None:
    assert "plain TCP" in start(folder, REDIS_URL="rediss://redis.example/0").wait_for_refusal()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"REDIS_URL": "redis://127.0.0.1:1/0"},
            "Redis does not answer at 127.0.0.1:1 (REDIS_URL): correct REDIS_URL, or unset it",
        ),
        (
            {
                "MINIO_ENDPOINT": "http://127.0.0.1:1",
                "MINIO_ACCESS_KEY": "a",
                "MINIO_SECRET_KEY": "b",
            },
            "MinIO does not answer at http://127.0.0.1:1 (MINIO_ENDPOINT): correct MINIO_ENDPOINT",
        ),
    ],
)
def test_run_sh_names_external_server_without_answer(
    folder: Path, start: Start, settings: dict[str, str], message: str
) -> None:
    assert message in start(folder, **settings).wait_for_refusal()
    assert list_processes(folder) == []


def test_run_sh_explains_unsupported_python(folder: Path, tmp_path: Path, start: Start) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    message = start(folder, PYTHON=str(old)).wait_for_refusal()
    assert "needs Python 3.11" in message
    assert f"Tried PYTHON={old}:\n  {old} is Python 3.9.2\n" in message
    assert "unset it" in message


def test_run_sh_names_missing_python(folder: Path, start: Start) -> None:
    message = start(folder, PYTHON="python2.0").wait_for_refusal()
    assert "needs Python 3.11" in message
    assert "\n  python2.0 is not found\n" in message
    assert not folder.exists()


def test_run_sh_prints_usage_for_unknown_argument(folder: Path, start: Start) -> None:
    run = start(folder, "--sample")
    assert run.process.wait(10) == 2
    assert run.output.startswith("rowdrop: unknown option --sample\n")
    assert "usage: ./run.sh [--empty]" in run.output
    assert not folder.exists()


def test_run_sh_runs_twice_and_stops_without_supervisor(
    folder: Path, second_folder: Path, start: Start
) -> None:
    first = start(folder, "--empty").wait_until_ready()
    second = start(second_folder, "--empty").wait_until_ready()
    ports = ("API_PORT", "MINIO_PORT", "REDIS_PORT")
    assert not {first.credentials[name] for name in ports} & {
        second.credentials[name] for name in ports
    }
    find_processes(second_folder, "supervisord")[0].kill()
    assert "supervisor ended unexpectedly" in second.wait_for_refusal()
    assert list_processes(second_folder) == []
    assert first.is_healthy()
    assert first.stop_with_signal(signal.SIGTERM) == 0


def test_run_sh_loads_folder_at_start_or_while_running(
    folder: Path, tmp_path: Path, start: Start
) -> None:
    users = tmp_path / "users"
    (users / "photos").mkdir(parents=True)
    for number in range(30):
        (users / f"{number:03}.csv").write_text(f"first_name,last_name,birthts\nN{number},F,1\n")
        (users / "photos" / f"{number:03}.png").write_bytes(b"image")
    (users / "notes.txt").write_text("nobody's")
    run = start(folder, "--load", str(users)).wait_until_ready()
    assert "60 files loaded" in run.output
    assert "notes.txt: it is neither" in run.output
    last_line = f"Not everything in {users} was loaded"
    wait_until(lambda: last_line in run.output.partition("Drop a file, get a row:")[2])
    wait_until(lambda: run.list_users() == [f"{number:03}" for number in range(30)])
    (users / "100.csv").write_text("first_name,last_name,birthts\nNew,F,1\n")
    second = start(folder, "--load", str(users))
    assert second.process.wait(30) == 1
    assert "1 file loaded into src-data, 60 were there already" in second.output
    (users / "notes.txt").unlink()
    assert start(folder, "--load", str(users)).process.wait(30) == 0
    wait_until(lambda: "100" in run.list_users())
    assert run.stop_with_signal(signal.SIGTERM) == 0


def test_run_sh_refuses_missing_folder(folder: Path, start: Start) -> None:
    run = start(folder, "--load", "/no/such/folder")
    assert run.process.wait(10) == 2
    assert "'/no/such/folder' is not a folder" in run.output
