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
class _RunningProcess:
    process_group: int
    command: str


def find_running(pid_files: Path, names: Sequence[str]) -> dict[str, int]:
    """Return which of these programs still have a process: name to process group ID."""
    entries = {}
    for name in names:
        entry = _read_pid_file(pid_files / f"{name}.pid")
        if entry:
            entries[name] = entry
    processes = list(_list_processes()) if entries else []

    def is_running(group: int, command_words: str) -> bool:
        members = (process for process in processes if process.process_group == group)
        return any(command_words in process.command for process in members)

    return {name: entry[0] for name, entry in entries.items() if is_running(*entry)}


def stop_processes(
    pid_files: Path, names: Sequence[str], timeout_s: float, on_stop: Callable[[list[str]], None]
) -> None:
    """Stop the remaining processes of these programs concurrently.

    Sends SIGTERM to each group leader, and SIGKILL to the group after `timeout_s` seconds.  If any
    process is found, the callback gets the names before that.  When the function returns, none of
    the programs has a process.
    """
    groups = find_running(pid_files, names)
    if not groups:
        return
    on_stop(sorted(groups))
    for group in groups.values():
        _send_signal(os.kill, group, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while (groups := find_running(pid_files, names)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for group in groups.values():
        _send_signal(os.killpg, group, signal.SIGKILL)
    while find_running(pid_files, names):
        time.sleep(_POLL_S)


def _send_signal(send: Callable[[int, int], None], target: int, signal_number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        send(target, signal_number)


def _read_pid_file(pid_file: Path) -> tuple[int, str] | None:
    try:
        pid, *command_words = pid_file.read_text(encoding="utf-8").splitlines()
        return int(pid), " ".join(command_words)
    except (FileNotFoundError, ValueError):
        return None


def _list_processes() -> Iterator[_RunningProcess]:
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        return _list_linux_processes(proc)
    return _list_processes_by_ps()


def _list_linux_processes(proc: Path) -> Iterator[_RunningProcess]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # the process ended during the iteration
                command = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                # The program's name is in parentheses and may itself contain ")", so the last one
                # counts.  The fields after it are state, parent and group.
                group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[2]
                yield _RunningProcess(int(group), os.fsdecode(command))


def _list_processes_by_ps() -> Iterator[_RunningProcess]:
    output = subprocess.run(
        ["/bin/ps", "-axwwo", "pgid=,command="], capture_output=True, check=True
    ).stdout
    for line in os.fsdecode(output).splitlines():
        group, _, command = line.strip().partition(" ")
        yield _RunningProcess(int(group), command)
