"""Run a long command and report its progress every second."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping

Reporter = Callable[[str], None]
"""Takes one line for the console.  A line that ends in "…" is progress: the next may replace it."""


class CommandFailed(Exception):
    """A command exited with an error.  `lines` is its complete output, stdout and stderr."""

    def __init__(self, command: list[str], lines: list[str]) -> None:
        super().__init__(f"{' '.join(command[:4])} … failed")
        self.lines = lines


def run_with_progress(
    command: list[str],
    environment: Mapping[str, str],
    report: Reporter,
    format_progress: Callable[[list[str]], str],
) -> None:
    """Run `command` until it exits, and report its progress once a second.

    `format_progress` converts the lines that the command has printed so far into the line for
    `report`.  Raises `CommandFailed` if the command exits with an error, and `OSError` if it cannot
    be started.  If this process is interrupted, the command and its children are killed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its own process group, so that its children can be killed too.
            start_new_session=True,
        )
        try:
            while _is_running_after_wait(process):
                report(format_progress(_read_lines(output.fileno())))
        finally:
            _kill_process_group(process)
        if process.returncode:
            raise CommandFailed(command, _read_lines(output.fileno()))


def _is_running_after_wait(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return True
    return False


def _read_lines(output: int) -> list[str]:
    # The command shares this file description: a plain read() would move its write position.
    return os.pread(output, 10_000_000, 0).decode(errors="replace").splitlines()


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the command with its children, if it still runs.

    Children such as compilers would continue to write into a folder that is being removed.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
