"""Run Rowdrop's processes and servers under supervisor, which restarts them when they die.

`supervisord.conf` is the table of programs, and `start.sh` starts each of them.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import cast
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from local.errors import StartupError
from local.progress import Reporter
from local.servers import (
    LocalServer,
    MinioServer,
    RedisServer,
    read_log_tail,
    write_private_file,
)
from local.signals import raise_if_stop_requested
from local.stale_processes import find_running, stop_processes
from worker.commands.provisioning.credential_files import read_assignments

ROOT = Path(__file__).parent.parent
"""The checkout, which is the working directory of all processes."""

APP_GROUP = "rowdrop"
PROGRAMS_CONF = ROOT / "local" / "supervisord.conf"
_START_SCRIPT = ROOT / "local" / "start.sh"
CREDENTIALS_FOLDER = "credentials"
"""The folder in $ROWDROP_DIR with one file of settings per process."""
STOP_GRACE_S = 28.0
"""Seconds after which stopping kills what still runs.

More than the app (10 s), MinIO (5 s) and Redis (5 s) may take under supervisor, which looks once a
second.
"""
_STAGE_TIMEOUT_S = 10.0
_POLL_S = 0.2
_SUPERVISORD = "supervisord"
# The limit of macOS is 104 bytes, and supervisor appends its PID.
_MAX_SOCKET_PATH_BYTES = 85
_PYTHON = sys.executable


class Supervisor:
    """A supervisord process that runs the programs of `conf`, with its files in `folder`.

    The caller must call `stop`, also if `start` fails.  That takes at most `grace_s` seconds.
    """

    def __init__(
        self, folder: Path, conf: Path = PROGRAMS_CONF, grace_s: float = STOP_GRACE_S
    ) -> None:
        self.folder = folder
        self._conf = conf
        self._grace_s = grace_s
        self._socket = _choose_socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], *servers: LocalServer) -> None:
        """Start supervisor and those of the servers, MinIO and Redis, that Rowdrop runs.

        The environment of all programs must contain API_PORT.  Raises `StartupError` if supervisor
        does not respond within 15 s.
        """
        for name in ("logs", "pids", CREDENTIALS_FOLDER):
            (self.folder / name).mkdir(exist_ok=True)
        supervisord = [_PYTHON, "-m", "supervisor.supervisord", "-n", "-c", str(self._conf)]
        with (self.folder / "logs" / "supervisord.out").open("wb") as log_file:
            self._process = subprocess.Popen(
                ["/bin/sh", str(_START_SCRIPT), _SUPERVISORD, "none", *supervisord],
                cwd=self.folder,
                env={**environment, **self._build_environment(servers)},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it: `stop` stops all in order
            )
        deadline = time.monotonic() + 15
        while self.get_states() is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_tail = read_log_tail(self.folder / "logs" / "supervisord.out")
                raise StartupError(f"supervisor does not start:\n{log_tail}")
            time.sleep(0.05)

    def start_app(self, without: Collection[str] = ()) -> None:
        """Start the programs that are not servers, without waiting until they run.

        The programs in `without` are not started.
        """
        with self._connect() as proxy:
            for info in cast(list[dict[str, str]], proxy.supervisor.getAllProcessInfo()):
                if info["group"] == APP_GROUP and info["name"] not in without:
                    proxy.supervisor.startProcess(f"{APP_GROUP}:{info['name']}", False)

    def restart(self, name: str) -> None:
        """Stop a program, start it again and return once it is running."""
        with self._connect() as proxy:
            proxy.supervisor.stopProcess(name)
            proxy.supervisor.startProcess(name)

    def get_states(self) -> dict[str, str] | None:
        """Return the supervisor state of each program ("RUNNING", "BACKOFF", …) by name.

        Returns None if supervisor does not respond.
        """
        with suppress(OSError, HTTPException, Fault), self._connect() as proxy:
            process_infos = cast(list[dict[str, str]], proxy.supervisor.getAllProcessInfo())
            return {info["name"]: info["statename"] for info in process_infos}
        return None

    def get_log_path(self, name: str) -> Path:
        """Return the path of a program's log: the last 10 MB.  Rotated files are next to it."""
        return self.folder / "logs" / f"{name}.log"

    def wait(self) -> None:
        """Wait until supervisor exits, which happens only if it is stopped or killed.

        Raises `StopRequested` if a stop signal was received.
        """
        # A blocking wait could miss a signal: if it arrives just before the system call, Python
        # runs its handler only after the call.
        while self._process and self._process.poll() is None:
            raise_if_stop_requested()
            time.sleep(_POLL_S)

    def stop(self, report: Reporter = lambda _: None) -> None:
        """Stop the app, then MinIO, then Redis.  When it returns, none of the processes exists.

        `report` gets the names of the programs that still run, once a second, and of those that
        supervisor has killed.  After `grace_s` seconds all that still run are killed.
        """
        deadline = time.monotonic() + self._grace_s
        if self._process and self._process.poll() is None:
            log_path = self.get_log_path(_SUPERVISORD)
            log_size = log_path.stat().st_size if log_path.exists() else 0
            self._process.terminate()
            self._wait_for_exit(deadline, report)
            for name in _list_killed_programs(log_path, log_size):
                report(f"Killed {name}, which did not stop in time: see {self.get_log_path(name)}")

        def report_remaining(names: list[str]) -> None:
            action = "Stopping" if time.monotonic() < deadline else "Killing"
            report(f"{action} what still runs: {', '.join(names)}")

        stop_stale_processes(self.folder, report_remaining, deadline - time.monotonic())
        if self._process:
            self._process.wait()
        # Only then is the folder a temporary one.
        if self._socket.parent != self.folder:
            self._socket.unlink(missing_ok=True)
            self._socket.parent.rmdir()

    def _wait_for_exit(self, deadline: float, report: Reporter) -> None:
        """Wait until supervisor has exited, or until the deadline."""
        started_at = time.monotonic()
        next_report_at = started_at + 1
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            if time.monotonic() >= next_report_at:
                next_report_at += 1
                names = ", ".join(sorted(_find_running_programs(self.folder))) or _SUPERVISORD
                report(f"Waiting for {names}: {time.monotonic() - started_at:.0f} s …")
            time.sleep(_POLL_S)

    def _build_environment(self, servers: Sequence[LocalServer]) -> dict[str, str]:
        """Return the variables that supervisord.conf and start.sh use."""
        variables = {
            "ROWDROP_DIR": str(self.folder),
            "ROWDROP_ROOT": str(ROOT),
            "ROWDROP_PYTHON": shlex.quote(_PYTHON),
            "ROWDROP_SOCKET": str(self._socket),
        }
        for name, server_class in (("REDIS", RedisServer), ("MINIO", MinioServer)):
            commands = [
                server.build_command() for server in servers if isinstance(server, server_class)
            ]
            variables[f"OWNS_{name}"] = "true" if commands else "false"
            variables[f"{name}_COMMAND"] = shlex.join(commands[0]) if commands else "none"
        return variables

    def _connect(self) -> ServerProxy:
        # The URL is only syntax: the transport connects to the Unix socket.
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        return ServerProxy("http://127.0.0.1", transport)


def write_credentials(folder: Path, process: str, settings: Mapping[str, str]) -> None:
    """Write the settings of a process as shell assignments, in a file only its owner can read."""
    (folder / CREDENTIALS_FOLDER).mkdir(mode=0o700, exist_ok=True)
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(settings.items())]
    write_private_file(folder / CREDENTIALS_FOLDER / f"{process}.env", "\n".join(lines) + "\n")


def read_credentials(folder: Path, process: str) -> dict[str, str]:
    """Return the settings that `write_credentials` wrote."""
    return read_assignments(folder / CREDENTIALS_FOLDER / f"{process}.env")


def stop_stale_processes(
    folder: Path, on_stop: Callable[[list[str]], None], grace_s: float = STOP_GRACE_S
) -> None:
    """Stop the orphan processes of a killed Rowdrop in this folder.

    If supervisor is still running, it stops all others.  If it is not, the app is stopped first,
    then MinIO, then Redis.  What still runs after `grace_s` seconds is killed.  The callback gets
    the names of the programs before they are stopped.
    """
    deadline = time.monotonic() + grace_s

    def stop_stage(names: Collection[str], limit_s: float) -> None:
        timeout_s = max(0.0, min(limit_s, deadline - time.monotonic()))
        stop_processes(folder / "pids", sorted(names), timeout_s, on_stop)

    stop_stage([_SUPERVISORD], grace_s)
    names = _list_started_programs(folder)
    for stage in (names - {"redis", "minio"}, {"minio"}, {"redis"}):
        stop_stage(stage, _STAGE_TIMEOUT_S)
    for path in (folder / "pids").glob("*.pid"):
        path.unlink()


def _list_started_programs(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "pids").glob("*.pid")} - {_SUPERVISORD}


def _list_killed_programs(supervisor_log: Path, offset: int) -> list[str]:
    """Return the programs that supervisor has killed, by its log from this offset on."""
    if not supervisor_log.exists():
        return []
    with supervisor_log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    return re.findall(r"killing '([^']*)' \(\d+\) with SIGKILL", text)


def _find_running_programs(folder: Path) -> Collection[str]:
    return find_running(folder / "pids", sorted(_list_started_programs(folder)))


def _choose_socket_path(folder: Path) -> Path:
    """Return the path of supervisor's socket, normally in the data folder.

    It is in a temporary folder if the path is too long for a Unix socket.
    """
    path = folder / "supervisor.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        return Path(tempfile.mkdtemp(prefix="rowdrop-", dir="/tmp")) / path.name
    return path
