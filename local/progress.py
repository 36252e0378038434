"""Run a long command with a word about it every second."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping

Report = Callable[[str], None]
"""Takes one line for the screen; one that ends in "…" is progress, and may be replaced by the next."""


class CommandFailed(Exception):
    """A command ended with an error; `lines` is all that it printed."""

    def __init__(self, command: list[str], lines: list[str]) -> None:
        super().__init__(f"{' '.join(command[:4])} … failed")
        self.lines = lines


def run_with_progress(
    command: list[str], environment: Mapping[str, str], report: Report, progress: Callable[[list[str]], str]
) -> None:
    """Run `command` to its end; `progress` makes a line for `report` of what was printed so far, once a second.

    Raises `CommandFailed`, or `OSError` when it cannot be started.  Interrupted, it takes the command along.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while _still_running(process):
                report(progress(_lines(output.fileno())))
        finally:
            _end_group(process)
        if process.returncode:
            raise CommandFailed(command, _lines(output.fileno()))


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return True
    return False


def _lines(output: int) -> list[str]:
    # The command writes through the same open file: reading must not move its position.
    return os.pread(output, 10_000_000, 0).decode(errors="replace").splitlines()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Its children too (compilers, say): they would go on writing into a folder that is being removed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
