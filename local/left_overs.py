"""Processes that a killed Rowdrop left running: recognised by their pid files and command lines, and stopped.

Each program is the leader of its process group.  Its pid file names the group, and then words of its command line, so
that a stranger who got the same number later is never taken for it.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Process:
    group: int
    command: str


def living(pid_files: Path, names: Sequence[str]) -> dict[str, int]:
    """Which of these programs have a process left: name to process group."""
    recorded = {name: entry for name in names if (entry := _recorded(pid_files / f"{name}.pid"))}
    processes = list(_processes()) if recorded else []
    return {
        name: group
        for name, (group, words) in recorded.items()
        if any(process.group == group and words in process.command for process in processes)
    }


def stop_all(pid_files: Path, names: Sequence[str], patience_s: float, told: Callable[[list[str]], None]) -> None:
    """Stop what is left of these programs, all at once: SIGTERM to each leader, SIGKILL to its group when late.

    Calls `told` with their names first when there are any.  When it returns, none of them has a process.
    """
    groups = living(pid_files, names)
    if not groups:
        return
    told(sorted(groups))
    for group in groups.values():
        _send(os.kill, group, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while (groups := living(pid_files, names)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for group in groups.values():
        _send(os.killpg, group, signal.SIGKILL)
    while living(pid_files, names):
        time.sleep(_POLL_S)


def _send(send: Callable[[int, int], None], target: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        send(target, number)


def _recorded(pid_file: Path) -> tuple[int, str] | None:
    try:
        pid, *words = pid_file.read_text(encoding="utf-8").splitlines()
        return int(pid), " ".join(words)
    except (FileNotFoundError, ValueError):
        return None


def _processes() -> Iterator[_Process]:
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        return _processes_of_linux(proc)
    return _processes_by_ps()


def _processes_of_linux(proc: Path) -> Iterator[_Process]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                command = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                # The program's name, in parentheses, may hold anything; behind it: state, parent, group.
                group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[2]
                yield _Process(int(group), os.fsdecode(command))


def _processes_by_ps() -> Iterator[_Process]:
    answer = subprocess.run(["/bin/ps", "-axwwo", "pgid=,command="], capture_output=True, check=True).stdout
    for line in os.fsdecode(answer).splitlines():
        group, _, command = line.strip().partition(" ")
        yield _Process(int(group), command)
