"""Find a MinIO server: the one that MINIO_BINARY names, or the one that Rowdrop builds."""

import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from local.errors import CannotRun
from local.minio_build import MODULE_VERSION, build_minio, edits_digest

_OLDEST = "2025-09"


def find_minio(cache_dir: Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Return the MinIO program to run: MINIO_BINARY, the one in `cache_dir`, or one built into it now.

    A `minio` on PATH is not used unless MINIO_BINARY names it: no published release has the holes closed that
    minio-source/README.md lists.  Building takes about three minutes; `report` gets a line at least every second then,
    progress ending in "…".  Raises `CannotRun` when there is no MinIO and none can be built.
    """
    asked_for = os.environ.get("MINIO_BINARY")
    if asked_for:
        return _checked(asked_for)
    built = (cache_dir or user_cache()) / program_name()
    if not os.access(built, os.X_OK):
        build_minio(built, report)
    return built


def program_name() -> str:
    """Return the file name of the built MinIO.  It changes with the edits: an older build is never used instead."""
    return f"minio-{MODULE_VERSION}-{edits_digest()}-{platform.system()}-{platform.machine()}".lower()


def user_cache() -> Path:
    """Rowdrop's folder among this user's caches: `~/.cache/rowdrop`, by XDG_CACHE_HOME, or as macOS has it."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "rowdrop"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "rowdrop"


def release_of(binary: Path) -> str | None:
    """Year and month a MinIO was released, as `2025-09`; None when it does not tell or cannot be run.

    A release and the MinIO that Rowdrop builds tell it by `--version`; one made by `go install` carries its module's
    version, with the commit's time.
    """
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:RELEASE|DEVELOPMENT)\.(\d{4}-\d{2})", answer)
    if found:
        return found[1]
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        module = re.search(rb"mod\tgithub\.com/[\w./-]+\tv0\.0\.0-(\d{4})(\d{2})", content)
        return f"{module[1].decode()}-{module[2].decode()}" if module else None


def _checked(asked_for: str) -> Path:
    binary = shutil.which(asked_for)
    if binary is None:
        raise CannotRun(f"MINIO_BINARY={asked_for} is no program that can be run.  Correct it or unset it.")
    release = release_of(Path(binary))
    if release is not None and release < _OLDEST:
        raise CannotRun(
            f"MINIO_BINARY={asked_for} is of {release}, needed is {_OLDEST} or newer.\n"
            "Let it name a newer one, or unset it: then Rowdrop builds its own."
        )
    return Path(binary).absolute()
