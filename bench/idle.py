"""The processor and memory use of an idle Rowdrop: all its processes, including the servers."""

import os
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

from bench.figures import Figure, below
from bench.rowdrop import Rowdrop


class Share(NamedTuple):
    """The use of one process.

    `cpu` is in percent of one core. `memory` is the PSS in MB, or the RSS where there is no PSS.
    """

    name: str
    cpu: float
    memory: float


def shares(rowdrop: Rowdrop, quiet_s: float, seconds: float) -> list[Share]:
    """Measure every process for `seconds`, after `quiet_s` seconds of idleness."""
    time.sleep(quiet_s)
    processes = _processes(rowdrop)
    before = {process: _cpu_s(process) for process in processes}
    began = time.perf_counter()
    time.sleep(seconds)
    watched = time.perf_counter() - began
    names = _names(rowdrop)
    return [
        Share(_name(process, names), 100 * (_cpu_s(process) - before[process]) / watched, _memory_mb(process))
        for process in processes
        if process.is_running()  # a process may have ended during the measurement
    ]


def figures(parts: list[Share], count: int, seconds: float) -> list[Figure]:
    """Return the sums over all processes as figures."""
    samples = f"{len(parts)} processes, {seconds:.0f} s"
    cpu, memory = sum(part.cpu for part in parts), sum(part.memory for part in parts)
    return [
        Figure(f"idle, {count:,} users: processor, of one core", cpu, "%", None, below(3, "%"), samples),
        Figure(f"idle, {count:,} users: memory (PSS)", memory, "MB", None, below(1024, "MB"), samples),
    ]


def lines(parts: list[Share]) -> str:
    """Format one line per process, sorted by name."""
    ordered = sorted(parts, key=lambda part: part.name)
    return "\n".join(f"  {part.name:<14}{part.cpu:6.2f} %{part.memory:8.1f} MB" for part in ordered)


def _processes(rowdrop: Rowdrop) -> list[psutil.Process]:
    root = psutil.Process(rowdrop.pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _memory_mb(process: psutil.Process) -> float:
    full = process.memory_full_info()
    return float(getattr(full, "pss", full.rss)) / 2**20


def _names(rowdrop: Rowdrop) -> dict[int, str]:
    """Map process group IDs to program names.

    Each program leads a process group, and its PID file contains the group's ID.
    """
    files = (rowdrop.folder / "pids").glob("*.pid")
    return {int(file.read_text(encoding="utf-8").split()[0]): file.stem for file in files}


def _name(process: psutil.Process, names: dict[int, str]) -> str:
    with suppress(ProcessLookupError):
        return names.get(os.getpgid(process.pid), "run.sh")
    return "?"
