"""The parts of `local` that run commands: supervisor, locks, progress and console output."""

import io
import json
import os
import re
import shlex
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
from local.processes import ROOT, STOP_GRACE_S, Supervisor, write_credentials
from local.progress import CommandFailed, run_with_progress
from local.screen import Screen
from local.servers import read_log_tail
from tests.programs import Programs, read_programs, write_programs
from tests.system.running import build_foreground_command
from worker.commands.provisioning.credential_set import PROCESSES

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
IGNORE_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)",
]


PROGRAMS = read_programs()
PROGRAMS_OF_APP = (
    "listener", "publisher", "worker", "api", "flower",
)  # fmt: skip


def write_conf(folder: Path, servers: dict[str, list[str]], app: dict[str, list[str]]) -> Path:
    """Write a supervisord.conf with these programs and return its path."""

    def build_programs(programs: Programs) -> Programs:
        templates = [(programs["redis"], servers), (programs["api"], app)]
        start = "/bin/sh local/start.sh %(program_name)s none "
        return {
            name: template
            | {"command": start + shlex.join(command).replace("%", "%%"), "stopwaitsecs": "2"}
            | ({"autostart": "true"} if "priority" in template else {})
            for template, commands in templates
            for name, command in commands.items()
        }

    return write_programs(folder / "programs.conf", build_programs)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def test_supervisor_supports_unusual_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / f'it\'s "100%" #1; $HOME {"x" * 90}'
    folder.mkdir()
    conf = write_conf(folder, {"one": [*SLEEP, "server"]}, {"two": [*SLEEP, "app"]})
    supervisor = Supervisor(folder, conf)
    try:
        supervisor.start({})
        supervisor.start_app()
        states = supervisor.get_states()
        assert states is not None
        assert states.keys() == {"one", "two"}
    finally:
        supervisor.stop()
    assert supervisor.get_states() is None


@pytest.mark.parametrize("name", ["redis", "minio", *PROGRAMS_OF_APP])
def test_supervisord_conf_restarts_and_logs_each_program(name: str) -> None:
    program = PROGRAMS[name]
    assert program["autorestart"] == "true"
    assert int(program["startretries"]) > 100_000
    assert program["killasgroup"] == program["redirect_stderr"] == "true"
    assert program["directory"] == "%(ENV_ROWDROP_ROOT)s"
    assert program["stdout_logfile"] == "logs/%(program_name)s.log"
    assert (program["stdout_logfile_maxbytes"], program["stdout_logfile_backups"]) == ("10MB", "3")
    assert "stopasgroup" not in program  # a warm shutdown: only the leader gets SIGTERM
    assert program.get("stopsignal", "TERM") == "TERM"


def test_supervisord_conf_starts_servers_first_and_stops_them_last() -> None:
    assert PROGRAMS.keys() == {"redis", "minio", *PROGRAMS_OF_APP}
    assert PROGRAMS["redis"]["priority"] == "0"
    assert PROGRAMS["minio"]["priority"] == "1"
    assert {PROGRAMS[name]["autostart"] for name in PROGRAMS_OF_APP} == {"false"}
    stages = [
        [int(PROGRAMS[name]["stopwaitsecs"]) for name in stage]
        for stage in (PROGRAMS_OF_APP, ["minio"], ["redis"])
    ]
    # Supervisor looks once a second, and needs up to two looks more to stop each stage.
    assert 1 + sum(max(stage) + 2 for stage in stages) < STOP_GRACE_S


def test_supervisord_conf_gives_each_program_its_own_credentials() -> None:
    credentials = {name: program["command"].split()[3] for name, program in PROGRAMS.items()}
    expected = {name: name for name in PROGRAMS} | {"redis": "none"}
    assert credentials == expected
    assert set(credentials.values()) - {"none", "minio"} <= set(PROCESSES)


def test_start_script_gives_a_program_only_the_named_credentials(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    value = "a b'\"$HOME\\"
    write_credentials(tmp_path, "one", {"OWN": value})
    write_credentials(tmp_path, "two", {"FOREIGN": "x"})
    command = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    completed = subprocess.run(
        ["/bin/sh", str(ROOT / "local" / "start.sh"), "program", "one", *command],
        env={"ROWDROP_DIR": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    environment = json.loads(completed.stdout)
    assert environment["OWN"] == value
    assert "FOREIGN" not in environment
    pid, *words = (tmp_path / "pids" / "program.pid").read_text().splitlines()
    assert pid.isdecimal()
    assert words == command[-2:]


@pytest.mark.parametrize("grace_s", [STOP_GRACE_S, 0.0])
def test_supervisor_names_and_kills_process_that_does_not_stop(
    tmp_path: Path, grace_s: float
) -> None:
    """Supervisor kills it after its stop time, and `stop` after the grace period."""
    conf = write_conf(tmp_path, {"stubborn": IGNORE_SIGTERM, "polite": SLEEP}, {})
    supervisor = Supervisor(tmp_path, conf, grace_s)
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
        assert any(re.match(r"Waiting for .*\bstubborn: \d+ s …$", line) for line in reports)
        assert reports[-1] == f"Killed stubborn, which did not stop in time: see {log_path}"
    else:
        assert any(line.startswith("Killing what still runs:") for line in reports)
        assert "stubborn" in str(reports)


def test_supervisor_stop_ends_when_supervisor_hangs(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, write_conf(tmp_path, {"one": SLEEP}, {}), 1.0)
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

supervisor = Supervisor(Path(sys.argv[1]), Path(sys.argv[2]))
raise_on_stop_signal()
try:
    supervisor.start({})
    if sys.argv[3] == "finalizer":
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
    conf = write_conf(tmp_path, {}, {})
    command = [sys.executable, "-c", WAIT_FOR_STOP, str(tmp_path), str(conf), case]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert completed.stdout == "stopped\n"


def test_supervisor_reports_why_it_cannot_start(tmp_path: Path) -> None:
    conf = write_conf(tmp_path, {"no:such": ["true"]}, {})
    supervisor = Supervisor(tmp_path, conf)
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


def test_screen_survives_the_reader_of_its_pipe() -> None:
    """Otherwise a program that prints while it stops would leave its processes behind."""
    reader, writer = os.pipe()
    os.close(reader)
    out = os.fdopen(writer, "w")
    Screen(out)("Stopping …")
    Screen(out)("stopped")
    with pytest.raises(BrokenPipeError):
        out.close()


def test_read_log_tail_returns_end_or_note(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(100)))
    assert read_log_tail(tmp_path / "log", 2) == "    98\n    99"
    assert "nothing in" in read_log_tail(tmp_path / "none")
