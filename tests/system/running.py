"""Start ./run.sh for the system tests, without importing code of Rowdrop."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from minio import Minio

ROOT = Path(__file__).parents[2]
PORTS = ("API_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "REDIS_PORT", "FLOWER_PORT")
READY = "Rowdrop is ready."


def until(condition: Callable[[], Any], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


class Run:
    """One started ./run.sh."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self._out = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.out")
        environment = {name: value for name, value in os.environ.items() if name not in PORTS}
        environment |= {"ROWDROP_DIR": str(folder), "PYTHON": sys.executable, **settings}
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [str(ROOT / "run.sh"), *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def ready(self) -> "Run":
        until(lambda: READY in self.output or self.process.poll() is not None, patience_s=180)
        assert self.process.poll() is None, self.output
        return self

    def refused(self) -> str:
        """Wait until ./run.sh exits with code 1, and return its output."""
        assert self.process.wait(60) == 1, self.output
        return self.output

    def end(self, number: int) -> int:
        """Send a signal to ./run.sh only, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    @property
    def credentials(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {name: value.strip("'") for name, _, value in pairs}

    def credentials_of(self, process: str) -> dict[str, str]:
        """Return the credentials that a process gets in addition to its environment."""
        lines = (self.folder / "credentials" / f"{process}.env").read_text(encoding="utf-8").splitlines()
        return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}

    def client_as(self, process: str) -> Minio:
        """Return a client of its MinIO with the credentials of a process."""
        known = self.credentials_of(process)
        endpoint = known["MINIO_ENDPOINT"].removeprefix("http://")
        return Minio(endpoint, known["MINIO_ACCESS_KEY"], known["MINIO_SECRET_KEY"], secure=False)

    def get(self, path: str, port: str = "API_PORT") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.credentials[port]), timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def users(self) -> list[str]:
        status, body = self.get("/data")
        assert status == 200, body
        return [row["user_id"] for row in json.loads(body)]

    def is_healthy(self) -> bool:
        return self.get("/health/ready")[0] == 200


def processes(folder: Path) -> list[psutil.Process]:
    """Return every process of the Rowdrop in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ROWDROP_DIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended, or belongs to another user
    return found


def named(folder: Path, words: str) -> list[psutil.Process]:
    """Return the processes with these words in their command line, oldest first."""
    found = [process for process in processes(folder) if words in _command_line(process)]
    return sorted(found, key=psutil.Process.create_time)


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def cleaned(folder: Path) -> Iterator[Path]:
    yield folder
    left = processes(folder)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
