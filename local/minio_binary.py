"""Find the MinIO program to run: the one in MINIO_BINARY, or the one that Rowdrop builds."""

import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from local.errors import StartupError
from local.minio_build import MINIO_MODULE_VERSION, build_minio, compute_edits_digest

_MIN_RELEASE = "2025-09"


def find_minio(cache_dir: Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Return the path of the MinIO program to run.

    That is the one in MINIO_BINARY, or the one in `cache_dir` (by default the user's cache), which
    is built if it is missing.  A `minio` on PATH is used only if MINIO_BINARY names it, because no
    published release fixes the vulnerabilities in minio-source/README.md.  A build takes about
    three to five minutes.  It calls `report` at least once a second; progress lines end in "…".
    Raises `StartupError` if there is no MinIO and none can be built.
    """
    requested = os.environ.get("MINIO_BINARY")
    if requested:
        return _check_binary(requested)
    built = (cache_dir or user_cache_dir()) / build_program_name()
    if not os.access(built, os.X_OK):
        build_minio(built, report)
    return built


def build_program_name() -> str:
    """Return the file name of the built MinIO in the cache.

    The name contains a digest of the edits, so that a build without the current edits is not used.
    """
    machine = f"{platform.system()}-{platform.machine()}"
    return f"minio-{MINIO_MODULE_VERSION}-{compute_edits_digest()}-{machine}".lower()


def user_cache_dir() -> Path:
    """Return Rowdrop's cache folder of this user.

    It is `$XDG_CACHE_HOME/rowdrop` if that variable is set, otherwise `~/Library/Caches/rowdrop` on
    macOS and `~/.cache/rowdrop` elsewhere.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "rowdrop"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "rowdrop"


def read_release(binary: Path) -> str | None:
    """Return the year and month of a MinIO's release as `2025-09`, or None if it is not known.

    Official releases and Rowdrop's build print it with `--version`.  A program built with
    `go install` contains its module's version, which has the time of the commit.  The result is
    None if neither has a date, or if the program cannot be run.
    """
    try:
        output = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(?:RELEASE|DEVELOPMENT)\.(\d{4}-\d{2})", output)
    if match:
        return match[1]
    # The program has more than 100 MB: map it instead of reading it.
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        module_match = re.search(rb"mod\tgithub\.com/[\w./-]+\tv0\.0\.0-(\d{4})(\d{2})", content)
        return f"{module_match[1].decode()}-{module_match[2].decode()}" if module_match else None


def _check_binary(requested: str) -> Path:
    binary = shutil.which(requested)
    if binary is None:
        raise StartupError(
            f"MINIO_BINARY={requested} is not an executable program.  Correct it or unset it."
        )
    release = read_release(Path(binary))
    # YYYY-MM can be compared as text.  A program of unknown age is accepted.
    if release is not None and release < _MIN_RELEASE:
        raise StartupError(
            f"MINIO_BINARY={requested} is a MinIO of {release}, "
            f"but {_MIN_RELEASE} or newer is required.\n"
            "Set it to a newer one, or unset it: then Rowdrop builds its own."
        )
    return Path(binary).absolute()
