"""Install the project's virtual environment and run a module in it.

Usage: `python -m local.install [--dev] [MODULE [ARG …]]`.  run.sh and test.sh call it.  It uses
only Python's standard library.  Concurrent runs in one checkout are serialised by a lock: the
second one waits and then finds the packages installed.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from local.errors import PIP_HINT, StartupError
from local.locks import lock_path
from local.progress import CommandFailed, Reporter, run_with_progress
from local.screen import Screen
from local.signals import StopRequested, raise_on_stop_signal

ROOT = Path(__file__).parent.parent
_VENV = ROOT / ".venv"
_VENV_PYTHON = _VENV / "bin" / "python"


def main() -> int:
    """Install the environment, then replace this process by the module, if one is named.

    Returns the exit status: 1 with a message if the environment cannot be installed, 130 if the
    installation was stopped.
    """
    arguments = sys.argv[1:]
    is_dev = arguments[:1] == ["--dev"]
    requirements = ROOT / "requirements" / ("dev.txt" if is_dev else "run.txt")
    raise_on_stop_signal()
    try:
        install_requirements(requirements, Screen(sys.stdout))
    except StartupError as error:
        print(f"rowdrop: {error}", file=sys.stderr)
        return 1
    except StopRequested:
        return 130
    if module := arguments[is_dev:]:
        # Replace this process, so that signals reach the module directly.
        os.execv(_VENV_PYTHON, [str(_VENV_PYTHON), "-m", *module])  # noqa: S606
    return 0


def install_requirements(requirements: Path, report: Reporter) -> None:
    """Install these hash-pinned packages into `.venv`, unless they are installed.

    Raises `StartupError`.
    """
    wait_message = "Another start is installing .venv: waiting, {:.0f} s …"
    with lock_path(ROOT / ".venv.lock", lambda seconds: report(wait_message.format(seconds))):
        stamp_file = _VENV / f"installed-{requirements.stem}"
        checksum = hashlib.sha256(requirements.read_bytes()).hexdigest()
        if _is_venv_usable() and stamp_file.exists() and stamp_file.read_text() == checksum:
            return
        _create_venv(report)
        # Without the stamp, an installation that is interrupted now starts from scratch next time.
        stamp_file.unlink(missing_ok=True)
        _install_packages(requirements, report)
        stamp_file.write_text(checksum)


def _is_venv_usable() -> bool:
    """Return whether the environment's Python runs: a system upgrade may have removed it."""
    command = [str(_VENV_PYTHON), "-c", ""]
    try:
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def _create_venv(report: Reporter) -> None:
    if _is_venv_usable() and any(_VENV.glob("installed-*")):
        return
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise StartupError(
            f"{sys.executable} (Python {version}) has no venv module.\n"
            f"On Debian and Ubuntu: apt install python{version}-venv (or python3-venv).\n"
            "Or set PYTHON to another Python."
        )
    command = [sys.executable, "-m", "venv", "--clear", str(_VENV)]
    _run_command(command, report, "Creating a virtual environment in .venv", "")


def _install_packages(requirements: Path, report: Reporter) -> None:
    package_count = sum("==" in line for line in requirements.read_text().splitlines())
    # The list is complete and every file is pinned by hash, so pip must not resolve dependencies.
    options = (
        "--require-hashes --no-deps --only-binary :all: --disable-pip-version-check --no-input"
    )
    pip = [str(_VENV_PYTHON), "-m", "pip", "install", *options.split()]
    command = [*pip, "-r", str(requirements)]
    activity = f"Installing {package_count} packages into .venv"
    _run_command(command, report, activity, PIP_HINT)
    report(f"Installed {package_count} packages into .venv.")


def _run_command(command: list[str], report: Reporter, activity: str, hint: str) -> None:
    """Run a command and report `activity` with the seconds that it has taken."""
    started_at = time.monotonic()

    def format_progress(_lines: list[str]) -> str:
        return f"{activity}: {time.monotonic() - started_at:.0f} s …"

    # PIP_USER=1 in the user's environment would install outside .venv.
    environment = os.environ | {"PIP_USER": "0"}
    try:
        run_with_progress(command, environment, report, format_progress)
    except CommandFailed as error:
        output = "\n".join(f"    {line}" for line in error.lines[-5:])
        raise StartupError(f"{error}:\n{output}\n{_suggest_fix(error.lines, hint)}") from error


def _suggest_fix(lines: list[str], hint: str) -> str:
    text = "\n".join(lines)
    if "No space left" in text:
        return "The disk is full: .venv needs about 500 MB.  Free some space and start again."
    # pip also reports "No matching distribution" after a network error.
    if "No matching distribution" in text and "connection broken" not in text:
        return (
            "There may be no packages for this platform or Python.  "
            f"Set PYTHON to another Python.\n{hint}"
        )
    return hint


if __name__ == "__main__":
    sys.exit(main())
