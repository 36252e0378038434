"""The parts of `local` that run commands: supervisor, locks, progress and console output."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from local.errors import StartupError
from local.locks import try_lock_file
from local.processes import Program, Supervisor
from local.progress import CommandFailed, run_with_progress
from local.screen import Screen
from local.servers import read_log_tail

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


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
