"""`./run.sh` as a user has it: what it says, what it leaves, and how it stands what is done to it."""

import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PORTS = ("API_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "REDIS_PORT", "FLOWER_PORT")
READY = "Rowdrop is ready"


def until(condition: Callable[[], Any], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


class Run:
    """One ./run.sh, started."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self._out = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.out")
        environment = {name: value for name, value in os.environ.items() if name not in PORTS}
        environment |= {"ROWDROP_DIR": str(folder), "PYTHON": sys.executable, **settings}
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [str(ROOT / "run.sh"), *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def ready(self) -> "Run":
        until(lambda: READY in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        return self

    def refused(self) -> str:
        """What it says, when it must end by itself with an error."""
        assert self.process.wait(60) == 1, self.output
        return self.output

    def end(self, number: int) -> int:
        """Send a signal to ./run.sh alone; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    @property
    def credentials(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {name: value.strip("'") for name, _, value in pairs}

    def get(self, path: str, port: str = "API_PORT") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.credentials[port]), timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def users(self) -> list[str]:
        status, body = self.get("/data")
        assert status == 200, body
        return [row["user_id"] for row in json.loads(body)]

    def is_healthy(self) -> bool:
        return self.get("/health/ready")[0] == 200


def processes(folder: Path) -> list[psutil.Process]:
    """Every process that belongs to the Rowdrop in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ROWDROP_DIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended, or is not ours
    return found


def named(folder: Path, words: str) -> list[psutil.Process]:
    """Those with these words in their command line, the eldest first."""
    found = [process for process in processes(folder) if words in " ".join(process.cmdline())]
    return sorted(found, key=psutil.Process.create_time)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose processes do not outlive the test, even if the test fails."""
    yield from cleaned(tmp_path / "data")


@pytest.fixture
def second_folder(tmp_path: Path) -> Iterator[Path]:
    """Another one."""
    yield from cleaned(tmp_path / "other data")


def cleaned(folder: Path) -> Iterator[Path]:
    yield folder
    left = processes(folder)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def test_the_first_run_shows_the_sample_and_the_second_finds_its_data(folder: Path) -> None:
    first = Run(folder).ready()
    assert sum(user.startswith("sample-") for user in first.users()) > 0
    kept = first.credentials
    for name in ("API_PORT", "MINIO_CONSOLE_PORT", "FLOWER_PORT"):
        assert f"http://127.0.0.1:{kept[name]}" in first.output
    assert str(folder / ".env") in first.output
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept["MINIO_ROOT_PASSWORD"] not in first.output
    assert "already runs" in Run(folder).refused()
    assert first.is_healthy()
    until(lambda: first.get("/", "FLOWER_PORT")[0] == 401)

    assert first.end(signal.SIGTERM) == 0
    assert processes(folder) == []

    started = time.monotonic()
    second = Run(folder).ready()
    assert time.monotonic() - started < 20
    assert second.credentials == kept
    assert second.users()
    assert second.end(signal.SIGINT) == 0
    assert processes(folder) == []


def test_what_dies_is_restarted_and_what_a_killed_run_left_is_stopped_by_the_next(folder: Path) -> None:
    run = Run(folder, "--empty").ready()
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
    second = Run(folder, "--empty").ready()
    assert "Stopping what a killed run left" in second.output
    assert [process for process in left if process.is_running()] == []
    assert second.credentials == kept
    assert second.end(signal.SIGHUP) == 0
    assert processes(folder) == []


def test_a_port_that_was_asked_for_and_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} is taken" in Run(folder, FLOWER_PORT=str(port)).refused()
    assert processes(folder) == []


def test_a_redis_that_minio_cannot_push_to_is_refused(folder: Path) -> None:
    assert "plain TCP" in Run(folder, REDIS_URL="rediss://redis.example/0").refused()


def test_a_python_that_cannot_run_it_is_named_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    said = Run(folder, PYTHON=str(old)).refused()
    assert "needs Python 3.11" in said
    assert "PYTHON=" in said


def test_an_unknown_argument_is_answered_by_the_usage(folder: Path) -> None:
    run = Run(folder, "--sample")
    assert run.process.wait(10) == 2
    assert "usage: ./run.sh [--empty]" in run.output
    assert not folder.exists()


def test_two_copies_run_side_by_side_and_one_whose_supervisor_dies_stops_the_rest_of_its_own(
    folder: Path, second_folder: Path
) -> None:
    first = Run(folder, "--empty").ready()
    second = Run(second_folder, "--empty").ready()
    assert not {first.credentials[name] for name in PORTS} & {second.credentials[name] for name in PORTS}
    named(second_folder, "supervisord")[0].kill()
    assert "supervisor ended by itself" in second.refused()
    assert processes(second_folder) == []
    assert first.is_healthy()
    assert first.end(signal.SIGTERM) == 0
