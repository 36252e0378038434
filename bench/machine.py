"""A description of the machine and the servers that the figures were measured on."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.rowdrop import Rowdrop
from local.minio_binary import release_of


def facts(rowdrop: Rowdrop) -> dict[str, str]:
    """Return facts about this machine and the running servers, as labels and values to print."""
    server: Any = rowdrop.redis.info("server")
    name = server.get("server_name", "redis")
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": f"{_cores()} ({_processor()})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "MinIO": f"{release_of(rowdrop.minio_binary) or 'of unknown release'}, {_said_by(rowdrop.minio_binary)}",
        "Redis": f"{name} {server.get(f'{name}_version', server['redis_version'])}",
        "disk": str(rowdrop.folder.parent),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown"


def _said_by(binary: Path) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0].partition(" version ")[2].partition(" ")[0]
