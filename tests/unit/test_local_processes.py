"""The parts of `local` that run commands: supervisor, locks, progress and console output."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from local.errors import StartupError
from local.locks import try_lock_file
from local.processes import ROOT, STOP_GRACE_S, Program, Supervisor
from local.progress import CommandFailed, run_with_progress
from local.screen import Screen
from local.servers import read_log_tail
from tests.system.running import build_foreground_command

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
IGNORE_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)",
]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def test_supervisor_supports_unusual_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / f'it\'s "100%" #1; $HOME {"x" * 90}'
    folder.mkdir()
    supervisor = Supervisor(
        folder,
        [Program("one", [*SLEEP, "server"], is_server=True), Program("two", [*SLEEP, "app"])],
    )
    try:
        supervisor.start({})
        supervisor.start_app()
        states = supervisor.get_states()
        assert states is not None
        assert states.keys() == {"one", "two"}
    finally:
        supervisor.stop()
    assert supervisor.get_states() is None


@pytest.mark.parametrize("grace_s", [STOP_GRACE_S, 0.0])
def test_supervisor_names_and_kills_process_that_does_not_stop(
    tmp_path: Path, grace_s: float
) -> None:
    """Supervisor kills it after its stop time, and `stop` after the grace period."""
    programs = [
        Program("stubborn", IGNORE_SIGTERM, stop_timeout_s=2, is_server=True),
        Program("polite", [*SLEEP, "server"], is_server=True),
    ]
    supervisor = Supervisor(tmp_path, programs, grace_s)
    supervisor.start({})
    log_path = supervisor.get_log_path("stubborn")
    wait_until(lambda: log_path.exists() and "up" in log_path.read_text())
    pid = int((tmp_path / "pids" / "stubborn.pid").read_text().split()[0])
    reports: list[str] = []
    started_at = time.monotonic()
    supervisor.stop(reports.append)
    assert time.monotonic() - started_at < 12
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    if grace_s:
        assert any(line.startswith("Waiting for stubborn: ") for line in reports)
        assert reports[-1] == f"Killed stubborn, which did not stop in time: see {log_path}"
    else:
        assert any(line.startswith("Killing what still runs:") for line in reports)
        assert "stubborn" in str(reports)


def test_supervisor_stop_ends_when_supervisor_hangs(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [Program("one", [*SLEEP, "server"], is_server=True)], 1.0)
    supervisor.start({})
    pid_file = tmp_path / "pids" / "supervisord.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGSTOP)
    reports: list[str] = []
    started_at = time.monotonic()
    supervisor.stop(reports.append)
    assert time.monotonic() - started_at < 6
    assert "Killing what still runs: supervisord" in reports
    assert not pid_file.exists()


def test_foreground_command_enables_inherited_ignored_signals() -> None:
    """A background job such as `./test.sh &` ignores SIGINT, and so do its descendants."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            build_foreground_command(SLEEP), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(10) == -signal.SIGINT
        finally:
            process.kill()


WAIT_FOR_STOP = """
import os, signal, sys, threading, time
from pathlib import Path
from local.processes import Supervisor
from local.signals import StopRequested, raise_on_stop_signal

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def deliver_to_another_thread():
    time.sleep(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

supervisor = Supervisor(Path(sys.argv[1]), [])
raise_on_stop_signal()
try:
    supervisor.start({})
    if sys.argv[2] == "finalizer":
        Finalized()
    else:
        threading.Thread(target=deliver_to_another_thread, daemon=True).start()
    supervisor.wait()
except StopRequested:
    print("stopped")
finally:
    supervisor.stop()
"""


@pytest.mark.parametrize("case", ["finalizer", "thread"])
def test_supervisor_wait_notices_signal_that_interrupts_no_call(tmp_path: Path, case: str) -> None:
    """In a finalizer Python discards the exception; in another thread no system call ends."""
    command = [sys.executable, "-c", WAIT_FOR_STOP, str(tmp_path), case]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert completed.stdout == "stopped\n"


def test_supervisor_reports_why_it_cannot_start(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [Program("no:such\nname", ["true"], is_server=True)])
    with pytest.raises(StartupError, match="supervisor does not start"):
        supervisor.start({})
    supervisor.stop()


def test_try_lock_file_grants_lock_to_one_holder(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        assert try_lock_file(first)
        assert not try_lock_file(second)
        first.close()
        assert try_lock_file(second)


def test_run_with_progress_reports_while_running() -> None:
    reports: list[str] = []
    code = "import time; print('one', flush=True); time.sleep(1.5); print('two')"
    run_with_progress(
        [sys.executable, "-c", code], {}, reports.append, lambda lines: f"{len(lines)} …"
    )
    assert reports == ["1 …"]


def test_run_with_progress_returns_output_of_failed_command() -> None:
    code = "print('disk full'); raise SystemExit(3)"
    with pytest.raises(CommandFailed) as failure:
        run_with_progress([sys.executable, "-c", code], {}, print, str)
    assert failure.value.lines == ["disk full"]


def test_run_with_progress_stops_interrupted_command(tmp_path: Path) -> None:
    code = (
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()));"
    )

    def interrupt(_: list[str]) -> str:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt
        return ""

    with pytest.raises(KeyboardInterrupt):
        run_with_progress(
            [sys.executable, "-c", f"{code} import time; time.sleep(600)"],
            {},
            lambda _: None,
            interrupt,
        )
    pid = (tmp_path / "pid").read_text()
    assert subprocess.run(["kill", "-0", pid], check=False, stderr=subprocess.DEVNULL).returncode  # noqa: S607


def test_screen_limits_progress_lines_in_file() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for second in range(5):
        screen(f"building, {second} s …")
    screen("built")
    assert out.getvalue() == "building, 0 s …\nbuilt\n"


def test_read_log_tail_returns_end_or_note(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(100)))
    assert read_log_tail(tmp_path / "log", 2) == "    98\n    99"
    assert "nothing in" in read_log_tail(tmp_path / "none")
