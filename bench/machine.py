"""A description of the machine and the servers that the figures were measured on."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.rowdrop import RowdropInstance
from local.minio_binary import read_release


def describe_machine(rowdrop: RowdropInstance) -> dict[str, str]:
    """Return facts about this machine and the running servers, as labels and values to print."""
    server: Any = rowdrop.redis.info("server")
    name = server.get("server_name", "redis")
    minio_release = read_release(rowdrop.minio_binary) or "of unknown release"
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": f"{_count_cores()} ({_read_processor_name()})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "MinIO": f"{minio_release}, {_read_version(rowdrop.minio_binary)}",
        "Redis": f"{name} {server.get(f'{name}_version', server['redis_version'])}",
        "disk": str(rowdrop.folder.parent),
    }


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_processor_name() -> str:
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or "unknown"


def _read_version(binary: Path) -> str:
    output = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=False
    ).stdout
    return output.partition("\n")[0].partition(" version ")[2].partition(" ")[0]
