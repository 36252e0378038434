"""Tests of `./run.sh` as a user runs it: its output, what it leaves behind, and its robustness."""

import functools
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.running import PORTS, Run, cleaned, named, processes, until

Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts ./run.sh, which is killed at the end of the test.

    Its arguments are the data folder, then the arguments and settings of ./run.sh.
    """
    runs: list[Run] = []

    def started(folder: Path, *arguments: str, **settings: str) -> Run:
        runs.append(Run(folder, *arguments, **settings))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a data folder and kill its processes after the test, even if the test fails."""
    yield from cleaned(tmp_path / "data")


@pytest.fixture
def second_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a second data folder, as `folder`."""
    yield from cleaned(tmp_path / "other data")


def test_the_first_run_shows_the_sample_and_the_second_finds_its_data(folder: Path, start: Start) -> None:
    first = start(folder).ready()
    assert sum(user.startswith("sample-") for user in first.users()) > 0
    kept = first.credentials
    for name in ("API_PORT", "MINIO_CONSOLE_PORT", "FLOWER_PORT"):
        assert f"http://127.0.0.1:{kept[name]}" in first.output
    assert str(folder / ".env") in first.output
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept["MINIO_ROOT_PASSWORD"] not in first.output
    assert "already runs" in start(folder).refused()
    assert first.is_healthy()
    until(lambda: first.get("/", "FLOWER_PORT")[0] == 401)

    assert first.end(signal.SIGTERM) == 0
    assert processes(folder) == []

    second = start(folder).ready()
    assert second.credentials == kept
    assert second.users()
    assert second.end(signal.SIGINT) == 0
    assert processes(folder) == []


def test_what_dies_is_restarted_and_what_a_killed_run_left_is_stopped_by_the_next(folder: Path, start: Start) -> None:
    run = start(folder, "--empty").ready()
    assert run.users() == []
    for words in ("redis.conf", "minio/data", "worker.listener", "api.wsgi:app"):
        victim = named(folder, words)[0]
        victim.kill()
        victim.wait(10)
    for words in ("redis.conf", "minio/data", "worker.listener", "api.wsgi:app"):
        until(functools.partial(named, folder, words))
    until(run.is_healthy)

    left, kept = processes(folder), run.credentials
    run.process.kill()
    run.process.wait()
    named(folder, "supervisord")[0].kill()
    second = start(folder, "--empty").ready()
    assert "Stopping orphan processes of a killed run" in second.output
    assert [process for process in left if process.is_running()] == []
    assert second.credentials == kept
    assert second.end(signal.SIGHUP) == 0
    assert processes(folder) == []


@pytest.mark.parametrize("tokens", [{}, {"API_TOKENS": "ci=a-token-that-the-test-has-set"}])
def test_it_becomes_ready_when_every_client_needs_a_token(folder: Path, start: Start, tokens: dict[str, str]) -> None:
    run = start(folder, ALLOWED_HOSTS="rowdrop.example.org", **tokens).ready()
    assert run.get("/data")[0] == 401
    assert run.get("/health/live")[0] == 200
    assert run.end(signal.SIGTERM) == 0


def test_users_that_minio_does_not_know_are_made_again(folder: Path, start: Start) -> None:
    first = start(folder, "--empty").ready()
    assert first.end(signal.SIGTERM) == 0
    made = (folder / "minio" / "users-made").read_text()
    shutil.rmtree(folder / "minio" / "data" / ".minio.sys" / "config" / "iam")
    assert (folder / "minio" / "users-made").read_text() == made  # so MinIO has no root access
    second = start(folder, "--empty").ready()
    assert "created the users of MinIO" in second.output
    assert second.is_healthy()
    assert second.end(signal.SIGTERM) == 0


def test_a_port_that_was_asked_for_and_is_taken_is_named(folder: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} is in use" in start(folder, FLOWER_PORT=str(port)).refused()
    assert processes(folder) == []


def test_a_redis_that_minio_cannot_push_to_is_refused(folder: Path, start: Start) -> None:
    assert "plain TCP" in start(folder, REDIS_URL="rediss://redis.example/0").refused()


def test_a_python_that_cannot_run_it_is_named_with_the_way_out(folder: Path, tmp_path: Path, start: Start) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    said = start(folder, PYTHON=str(old)).refused()
    assert "needs Python 3.11" in said
    assert "PYTHON=" in said


def test_an_unknown_argument_is_answered_by_the_usage(folder: Path, start: Start) -> None:
    run = start(folder, "--sample")
    assert run.process.wait(10) == 2
    assert "usage: ./run.sh [--empty]" in run.output
    assert not folder.exists()


def test_two_copies_run_side_by_side_and_one_whose_supervisor_dies_stops_the_rest_of_its_own(
    folder: Path, second_folder: Path, start: Start
) -> None:
    first = start(folder, "--empty").ready()
    second = start(second_folder, "--empty").ready()
    assert not {first.credentials[name] for name in PORTS} & {second.credentials[name] for name in PORTS}
    named(second_folder, "supervisord")[0].kill()
    assert "supervisor ended unexpectedly" in second.refused()
    assert processes(second_folder) == []
    assert first.is_healthy()
    assert first.end(signal.SIGTERM) == 0


def test_a_folder_is_loaded_at_the_start_or_into_the_one_that_runs(folder: Path, tmp_path: Path, start: Start) -> None:
    users = tmp_path / "users"
    (users / "photos").mkdir(parents=True)
    for number in range(30):
        (users / f"{number:03}.csv").write_text(f"first_name,last_name,birthts\nN{number},F,1\n")
        (users / "photos" / f"{number:03}.png").write_bytes(b"image")
    (users / "notes.txt").write_text("nobody's")
    run = start(folder, "--load", str(users)).ready()
    assert "60 files loaded" in run.output
    assert "notes.txt: it is neither" in run.output
    until(lambda: run.users() == [f"{number:03}" for number in range(30)])
    (users / "100.csv").write_text("first_name,last_name,birthts\nNew,F,1\n")
    second = start(folder, "--load", str(users))
    assert second.process.wait(30) == 0
    assert "1 files loaded into src-data, 60 were there already" in second.output
    until(lambda: "100" in run.users())
    assert run.end(signal.SIGTERM) == 0


def test_a_folder_that_is_none_is_refused(folder: Path, start: Start) -> None:
    run = start(folder, "--load", "/no/such/folder")
    assert run.process.wait(10) == 2
    assert "'/no/such/folder' is not a folder" in run.output
