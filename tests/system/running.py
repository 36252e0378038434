"""Start ./run.sh for the system tests, without importing code of Rowdrop."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from minio import Minio

ROOT = Path(__file__).parents[2]
PORT_SETTINGS = ("API_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "REDIS_PORT", "FLOWER_PORT")
READY_MESSAGE = "Rowdrop is ready."


def wait_until(condition: Callable[[], Any], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


_RUN_IN_FOREGROUND = """
import os, signal, sys
for name in ("SIGINT", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def build_foreground_command(command: list[str]) -> list[str]:
    """Return a command that runs `command` with SIGINT and SIGHUP enabled, as in a terminal.

    A shell ignores SIGINT for jobs in the background, `nohup` ignores SIGHUP, and all descendants
    inherit that: without this, `./test.sh &` could not stop ./run.sh.
    """
    return [sys.executable, "-c", _RUN_IN_FOREGROUND, *command]


def find_free_port() -> int:
    """Return a free port below the kernel's range for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class RunShProcess:
    """One started ./run.sh."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self._out = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.out")
        environment = {
            name: value for name, value in os.environ.items() if name not in PORT_SETTINGS
        }
        environment |= {"ROWDROP_DIR": str(folder), "PYTHON": sys.executable, **settings}
        with self._out.open("wb") as output_file:
            self.process = subprocess.Popen(
                build_foreground_command([str(ROOT / "run.sh"), *arguments]),
                env=environment,
                stdout=output_file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def wait_until_ready(self) -> "RunShProcess":
        wait_until(
            lambda: READY_MESSAGE in self.output or self.process.poll() is not None, timeout_s=180
        )
        assert self.process.poll() is None, self.output
        return self

    def wait_for_refusal(self) -> str:
        """Wait until ./run.sh exits with code 1, and return its output."""
        assert self.process.wait(60) == 1, self.output
        return self.output

    def stop_with_signal(self, signal_number: int) -> int:
        """Send a signal to ./run.sh only, and return its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(30)

    @property
    def credentials(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {name: value.strip("'") for name, _, value in pairs}

    def read_credentials_of(self, process: str) -> dict[str, str]:
        """Return the credentials that a process gets in addition to its environment."""
        lines = (
            (self.folder / "credentials" / f"{process}.env")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        return {
            name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)
        }

    def open_client_as(self, process: str) -> Minio:
        """Return a client of its MinIO with the credentials of a process."""
        return _open_client(self.read_credentials_of(process))

    def open_client(self) -> Minio:
        """Return a client of its MinIO with a user's credentials."""
        return _open_client(self.credentials)

    def get(self, path: str, port: str = "API_PORT") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(self.credentials[port]), timeout=10
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ./rowdrop in another folder, with only ROWDROP_DIR in addition to the environment."""
        return subprocess.run(
            [str(ROOT / "rowdrop"), *arguments],
            cwd=self.folder.parent,
            env=os.environ | {"ROWDROP_DIR": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def list_users(self) -> list[str]:
        status, body = self.get("/data")
        assert status == 200, body
        return [row["user_id"] for row in json.loads(body)]

    def is_healthy(self) -> bool:
        return self.get("/health/ready")[0] == 200


def list_processes(folder: Path) -> list[psutil.Process]:
    """Return every process of the Rowdrop in `folder`."""
    matching = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("ROWDROP_DIR") == str(folder)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                matching.append(process)
        except psutil.Error:
            continue  # it ended, or belongs to another user
    return matching


def find_processes(folder: Path, command_words: str) -> list[psutil.Process]:
    """Return the processes with these words in their command line, oldest first."""
    matching = [
        process for process in list_processes(folder) if command_words in _command_line(process)
    ]
    return sorted(matching, key=psutil.Process.create_time)


def find_event_workers(folder: Path) -> list[psutil.Process]:
    """Return the event workers, oldest first."""
    return [process for process in _find_forked_workers(folder) if not process.children()]


def find_bulk_worker(folder: Path) -> psutil.Process:
    """Return the bulk worker, the only one with processes of its own."""
    (bulk_worker,) = (process for process in _find_forked_workers(folder) if process.children())
    return bulk_worker


def _find_forked_workers(folder: Path) -> list[psutil.Process]:
    parent = find_processes(folder, "worker.app")[0]
    return sorted(parent.children(), key=psutil.Process.create_time)


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def _open_client(credentials: dict[str, str]) -> Minio:
    endpoint = credentials["MINIO_ENDPOINT"].removeprefix("http://")
    return Minio(
        endpoint, credentials["MINIO_ACCESS_KEY"], credentials["MINIO_SECRET_KEY"], secure=False
    )


def run_rowdrop(folder: Path, **settings: str) -> Iterator[RunShProcess]:
    """Run ./run.sh with an empty source bucket for a fixture, with its data below this folder."""
    for data_folder in clean_up_processes(folder / "data"):
        process = RunShProcess(data_folder, "--empty", **settings)
        yield process.wait_until_ready()
        assert process.stop_with_signal(signal.SIGTERM) == 0


def clean_up_processes(folder: Path) -> Iterator[Path]:
    yield folder
    remaining = list_processes(folder)
    for process in remaining:
        process.kill()
    psutil.wait_procs(remaining, timeout=10)
