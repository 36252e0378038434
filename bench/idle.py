"""The processor and memory use of an idle Rowdrop: all its processes, including the servers."""

import os
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

from bench.measurements import Measurement, max_value
from bench.rowdrop import RowdropInstance

OTHER_PROGRAMS = ("minio", "flower")
"""What is not in the memory of Rowdrop itself: the store, and what runs only if asked for."""


class ProcessUsage(NamedTuple):
    """The use of one process.

    `cpu` is in percent of one core. `memory` is the PSS in MB, or the RSS where there is no PSS.
    """

    name: str
    cpu: float
    memory: float


def measure_usage(rowdrop: RowdropInstance, settle_s: float, seconds: float) -> list[ProcessUsage]:
    """Measure every process for `seconds`, after `settle_s` seconds of idleness."""
    time.sleep(settle_s)
    processes = _list_processes(rowdrop)
    cpu_before = {process: _read_cpu_s(process) for process in processes}
    started_at = time.perf_counter()
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - started_at
    names = _read_program_names(rowdrop)
    usages = []
    for process in processes:
        # A process may have ended during the measurement.
        if process.is_running():
            name = _find_program_name(process, names)
            cpu_s = _read_cpu_s(process) - cpu_before[process]
            usages.append(ProcessUsage(name, 100 * cpu_s / elapsed_s, _read_memory_mb(process)))
    return usages


def summarize_usage(usages: list[ProcessUsage], count: int, seconds: float) -> list[Measurement]:
    """Return the sums over all processes as figures."""
    samples = f"{len(usages)} processes, {seconds:.0f} s"
    cpu = sum(part.cpu for part in usages)
    memory = sum(part.memory for part in usages)
    own_memory = sum(part.memory for part in usages if part.name not in OTHER_PROGRAMS)
    cpu_goal = max_value(3, "%")
    memory_goal = max_value(1024, "MB")
    name = f"idle, {count:,} users"
    return [
        Measurement(f"{name}: processor, of one core", cpu, "%", None, cpu_goal, samples),
        Measurement(f"{name}: memory (PSS)", memory, "MB", None, memory_goal, samples),
        Measurement(
            f"{name}: memory (PSS) without MinIO and Flower",
            own_memory,
            "MB",
            None,
            max_value(450, "MB"),
            samples,
        ),
    ]


def format_usage(usages: list[ProcessUsage]) -> str:
    """Format one line per process, sorted by name."""
    ordered = sorted(usages, key=lambda part: part.name)
    return "\n".join(f"  {part.name:<14}{part.cpu:6.2f} %{part.memory:8.1f} MB" for part in ordered)


def _list_processes(rowdrop: RowdropInstance) -> list[psutil.Process]:
    root = psutil.Process(rowdrop.pid)
    return [root, *root.children(recursive=True)]


def _read_cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _read_memory_mb(process: psutil.Process) -> float:
    memory_info = process.memory_full_info()
    return float(getattr(memory_info, "pss", memory_info.rss)) / 2**20


def _read_program_names(rowdrop: RowdropInstance) -> dict[int, str]:
    """Map process group IDs to program names.

    Each program leads a process group, and its PID file contains the group's ID.
    """
    files = (rowdrop.folder / "pids").glob("*.pid")
    return {int(file.read_text(encoding="utf-8").split()[0]): file.stem for file in files}


def _find_program_name(process: psutil.Process, names: dict[int, str]) -> str:
    with suppress(ProcessLookupError):
        return names.get(os.getpgid(process.pid), "run.sh")
    return "?"
