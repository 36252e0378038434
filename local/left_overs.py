"""Find and stop orphan processes of a Rowdrop that was killed.

Each program is the leader of its process group.  Its pid file holds the group's ID, followed by
words of its command line.  A process counts as an orphan only if both match, so an unrelated
process that reuses the ID is never stopped.
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
    """Return which of these programs still have a process: name to process group ID."""
    recorded = {name: entry for name in names if (entry := _recorded(pid_files / f"{name}.pid"))}
    processes = list(_processes()) if recorded else []
    return {
        name: group
        for name, (group, words) in recorded.items()
        if any(process.group == group and words in process.command for process in processes)
    }


def stop_all(pid_files: Path, names: Sequence[str], patience_s: float, told: Callable[[list[str]], None]) -> None:
    """Stop the remaining processes of these programs concurrently.

    Sends SIGTERM to each group leader, and SIGKILL to the group after `patience_s` seconds.  If any
    process is found, the callback gets the names before that.  When the function returns, none of
    the programs has a process.
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
            with contextlib.suppress(OSError):  # the process ended during the iteration
                command = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                # The program's name is in parentheses and may itself contain ")", so the last one
                # counts.  The fields after it are state, parent and group.
                group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[2]
                yield _Process(int(group), os.fsdecode(command))


def _processes_by_ps() -> Iterator[_Process]:
    answer = subprocess.run(["/bin/ps", "-axwwo", "pgid=,command="], capture_output=True, check=True).stdout
    for line in os.fsdecode(answer).splitlines():
        group, _, command = line.strip().partition(" ")
        yield _Process(int(group), command)
