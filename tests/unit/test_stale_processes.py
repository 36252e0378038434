"""`local.stale_processes`: finding and stopping orphan processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.stale_processes import find_running, stop_processes

# One atomic os.write: the forked child writes to the same pipe.
SLEEP = "import os, time; os.write(1, b'up\\n'); time.sleep(600)"
IGNORE_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list for the processes that a test starts, and kill these after the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def start(
    started: list[subprocess.Popen[bytes]], code: str, pid_file: Path, words: str
) -> subprocess.Popen[bytes]:
    """Start a group leader with a pid file, as supervisor does, and return once it runs."""
    command = [sys.executable, "-c", code, "a-word", words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    started.append(process)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    pid_file.write_text(f"{process.pid}\na-word\n{words}\n")
    return process


def discard(_: list[str]) -> None:
    """Discard the report."""


def test_stop_processes_reports_and_stops_running_ones(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    reports: list[list[str]] = []
    process = start(started, SLEEP, tmp_path / "one.pid", "marked")
    stop_processes(tmp_path, ["one", "two"], 10, reports.append)
    assert reports == [["one"]]
    assert process.wait(5) == -15


def test_stop_processes_kills_process_ignoring_sigterm(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process = start(started, IGNORE_SIGTERM, tmp_path / "one.pid", "marked")
    stop_processes(tmp_path, ["one"], 0.3, discard)
    assert process.wait(5) == -9


def test_stop_processes_spares_unrelated_process(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process = start(started, SLEEP, tmp_path / "one.pid", "a-stranger")
    (tmp_path / "one.pid").write_text(f"{process.pid}\nsome other words\n")
    stop_processes(tmp_path, ["one"], 10, discard)
    assert process.poll() is None


def test_find_running_includes_children_of_killed_leader(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    forking = "import os; os.fork(); " + SLEEP
    process = start(started, forking, tmp_path / "one.pid", "marked")
    os.kill(process.pid, 9)
    process.wait()
    assert find_running(tmp_path, ["one"]) == {"one": process.pid}
    stop_processes(tmp_path, ["one"], 0.3, discard)
    assert find_running(tmp_path, ["one"]) == {}


@pytest.mark.parametrize("content", ["", "not a number\nwords\n"])
def test_find_running_ignores_truncated_pid_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.pid").write_text(content)
    assert find_running(tmp_path, ["one"]) == {}
