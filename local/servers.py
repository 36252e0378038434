"""MinIO and a Redis-compatible server as local processes, each in its own folder, on 127.0.0.1.

run.sh, the tests and the benchmarks all start their servers with this module, so that the tests
cover the configuration that users run.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from local.errors import StartupError
from local.minio_binary import find_minio
from local.ports import HOST, find_free_port
from local.redis_address import RedisAddress
from local.redis_binary import find_redis
from shared.formats.events import EVENT_TARGET
from shared.redis_keys import FAST_EVENTS
from worker.commands.provisioning.server_users import ServerUser

__all__ = [
    "MinioOptions",
    "MinioPorts",
    "MinioServer",
    "RedisAddress",
    "RedisServer",
    "ServerUser",
    "StartupError",
    "find_free_port",
    "find_minio",
    "find_redis",
]

_STOP_TIMEOUT_S = 10.0

_START_MINIO_SCRIPT = Path(__file__).parent.parent / "compose" / "start-minio.sh"
UNUSED_ORIGIN = "https://no-origin.invalid"
"""An origin that no web page can have (RFC 2606).

It replaces MinIO's default, which allows CORS requests from every origin.
"""


@dataclass
class LocalServer(ABC):
    """One server process.  It can be started again in the same folder after `stop` or `kill`."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @abstractmethod
    def build_command(self) -> list[str]:
        """Return the command line, without secrets, for `start` and for supervisor."""

    @abstractmethod
    def build_environment(self) -> dict[str, str]:
        """Return the variables that the process needs in addition to PATH, HOME and so on."""

    @abstractmethod
    def prepare_folder(self) -> None:
        """Create the folders and files that `build_command` names.  Idempotent."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server can process requests now.  Never raises."""

    @property
    def log_path(self) -> Path:
        """The log of all runs in this folder that were started by `start`."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The process ID.  Raises `RuntimeError` if the server is not started."""
        if self._process is None:
            raise RuntimeError(f"the server in {self.folder} is not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process in its own session, so that Ctrl-C at the terminal does not reach it.

        Raises `RuntimeError` if it is already started.
        """
        if self._process is not None:
            raise RuntimeError(f"the server in {self.folder} is already started")
        self.prepare_folder()
        # The developer's MINIO_* variables would change the server under test.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MINIO_")
        }
        with self.log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                self.build_command(),
                env=environment | self.build_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server is ready.

        Raises `StartupError` with the end of the log if the process exits, or after `timeout_s`
        seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            failure = None
            if self._process is not None and self._process.poll() is not None:
                failure = f"exited with code {self._process.returncode}"
            elif time.monotonic() > deadline:
                failure = f"is not ready after {timeout_s:.0f} s"
            if failure:
                log_tail = read_log_tail(self.log_path)
                raise StartupError(f"{self._display_name} {failure}:\n{log_tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the process with SIGTERM, and with SIGKILL after 10 s.

        Returns once the process has ended.  Does nothing if it is not started.
        """
        if self._process is None:
            return
        # A test may have suspended it with SIGSTOP, in which case it would not handle SIGTERM.
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill_process_group(self._process)
        self._process = None

    def kill(self) -> None:
        """Kill the process with SIGKILL, so that it cannot flush anything, as in a crash."""
        if self._process is not None:
            self._kill_process_group(self._process)
            self._process = None

    @staticmethod
    def _kill_process_group(process: "subprocess.Popen[bytes]") -> None:
        # Kill the whole group: until its users exist, MinIO is the child of a shell.  Then wait
        # until the group has no process, because only then is the port free.
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.01)

    @property
    def _display_name(self) -> str:
        return type(self).__name__.removesuffix("Server")

    def __enter__(self) -> Self:
        """Start the server and wait until it is ready."""
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()


@dataclass
class RedisServer(LocalServer):
    """A Redis-compatible server with an append-only file (fsync every second) and `noeviction`.

    `binary` defaults to the result of `find_redis`.  `acl` holds the lines of redis.conf that
    define the users.  In that case `user` must be one that may send PING.  Without `acl` there is
    only the default user, which has all permissions.  Its name is empty here.
    """

    port: int
    user: ServerUser = field(repr=False)
    acl: Sequence[str] = field(default=(), repr=False)
    binary: Path | None = None

    @property
    def url(self) -> str:
        """The URL `redis://[<user>]:<password>@127.0.0.1:<port>/0`."""
        return f"redis://{self.user.name}:{self.user.password}@{HOST}:{self.port}/0"

    @property
    def address(self) -> RedisAddress:
        """Address and user, in the form that `MinioServer` takes."""
        return RedisAddress(HOST, self.port, self.user.name, self.user.password)

    @property
    def _config_path(self) -> Path:
        return self.folder / "redis.conf"

    def start(self) -> None:
        """Start the process and return once it responds and has loaded its append-only file."""
        super().start()
        self.wait_ready()

    def build_command(self) -> list[str]:
        """Return the server and its configuration file, which contains the password."""
        self.binary = self.binary or find_redis()
        return [str(self.binary), str(self._config_path)]

    def build_environment(self) -> dict[str, str]:
        """Return no variables: the configuration file contains all settings."""
        return {}

    def prepare_folder(self) -> None:
        """Create the folder, and a configuration file that only its owner can read."""
        data_folder = self.folder / "data"
        data_folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {_quote_config_value(str(data_folder))}",
            *(self.acl or [f"requirepass {_quote_config_value(self.user.password)}"]),
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            # `stale_processes` identifies orphan processes by their command lines.
            "set-proc-title no",
        ]
        write_private_file(self._config_path, "\n".join(lines) + "\n")

    def is_ready(self) -> bool:
        """Return whether Redis responds to PING, as it does once its append-only file is loaded."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                user = self.user.name or "default"
                credentials = [b"AUTH", user.encode(), self.user.password.encode()]
                request = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in credentials)
                connection.sendall(b"*3\r\n%sPING\r\n" % request)
                with connection.makefile("rb") as replies:
                    return (replies.readline(), replies.readline()) == (b"+OK\r\n", b"+PONG\r\n")
        except OSError:
            return False


class MinioPorts(NamedTuple):
    """The ports of one MinIO: of the S3 API, and of the web console if it runs."""

    api: int
    console: int | None = None


@dataclass(frozen=True)
class MinioOptions:
    """How a MinIO runs.

    `users_id` is the result of `worker.commands.provisioning.server_users.digest_users`.  If it is
    set, root may sign in only until these users exist.  `metrics_are_public` gives access to the
    metrics without a token.
    """

    binary: Path
    users_id: str = ""
    metrics_are_public: bool = True


@dataclass
class MinioServer(LocalServer):
    """A MinIO on a single folder, with a Redis target for bucket events.

    ARN `arn:minio:sqs::FAST:redis` pushes to the list `events:fast`.  If Redis is down, the event
    is lost, and MinIO counts it in its metrics.
    `event_redis` is the Redis of the target.
    """

    ports: MinioPorts
    root: ServerUser = field(repr=False)
    event_redis: RedisAddress
    options: MinioOptions

    @property
    def port(self) -> int:
        """The port of the S3 API."""
        return self.ports.api

    @property
    def endpoint(self) -> str:
        """The URL `http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self.port}"

    def build_command(self) -> list[str]:
        """Return the call of compose/start-minio.sh, which prepares the start and runs MinIO."""
        script = ["/bin/sh", str(_START_MINIO_SCRIPT), str(self.folder), self.options.users_id]
        api_address = ["--address", f"{HOST}:{self.ports.api}"]
        console_address = []
        if self.ports.console:
            console_address = ["--console-address", f"{HOST}:{self.ports.console}"]
        # Otherwise MinIO would use certificates in ~/.minio, which belong to another MinIO.
        certificates = ["--certs-dir", str(self.folder / "certs")]
        options = [*api_address, *console_address, *certificates]
        data_folder = str(self.folder / "data")
        return [*script, str(self.options.binary), "server", *options, data_folder]

    def build_environment(self) -> dict[str, str]:
        """Return root's credentials, the event target, and the settings for reliable events."""
        cors_origin = os.environ.get("MINIO_API_CORS_ALLOW_ORIGIN")
        return {
            "MINIO_ROOT_USER": self.root.name,
            "MINIO_ROOT_PASSWORD": self.root.password,
            **self._build_target_settings(),
            # Without it MinIO accepts PUTs before it has loaded the notification rules, and loses
            # their events.
            "MINIO_SYNC_BOOT": "on",
            # The number of event senders.  With one per core (the default) they starve in a burst
            # of PUTs.
            "GOMAXPROCS": "8",
            "MINIO_PROMETHEUS_AUTH_TYPE": "public" if self.options.metrics_are_public else "jwt",
            "MINIO_API_CORS_ALLOW_ORIGIN": cors_origin or UNUSED_ORIGIN,
            # MinIO's scanner reads all objects repeatedly for quotas and life cycles, which are not
            # used here.
            "MINIO_SCANNER_SPEED": "slowest",
            "MINIO_BROWSER": "on" if self.ports.console else "off",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }

    def _build_target_settings(self) -> dict[str, str]:
        values = {
            "ENABLE": "on",
            "ADDRESS": f"{self.event_redis.host}:{self.event_redis.port}",
            "KEY": FAST_EVENTS,
            "FORMAT": "access",
            "USER": self.event_redis.user,
            "PASSWORD": self.event_redis.password,
        }
        prefix = "MINIO_NOTIFY_REDIS"
        return {f"{prefix}_{key}_{EVENT_TARGET}": value for key, value in values.items() if value}

    def prepare_folder(self) -> None:
        """Create the folders for data and certificates."""
        for name in ("data", "certs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def forget_users(self) -> None:
        """Make the next start enable root access, so that `rowdrop init` can recreate the users."""
        (self.folder / "users-made").unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Return whether `/minio/health/cluster` returns 200.

        `/minio/health/live` and `/minio/health/ready` return 200 before buckets are usable.
        """
        return http_get(self.port, "/minio/health/cluster")[0] == 200


def http_get(port: int, path: str, token: str = "") -> tuple[int | None, bytes]:
    """Return status and body of `GET path` on this port of 127.0.0.1.

    Without a response within 5 s the result is `(None, b"")`.  Proxy settings are ignored.  A
    non-empty `token` is sent as `Authorization: Bearer`.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


def write_private_file(path: Path, text: str) -> None:
    """Atomically replace `path` by a file that only its owner can read (mode 600)."""
    new_file = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        new_file.unlink()
    # Created with its mode: a chmod afterwards would leave a moment in which others can read it.
    descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
    new_file.replace(path)


def read_log_tail(log_file: Path, lines: int = 15) -> str:
    """Return the last lines of a log, indented, or a note if the log is empty or missing."""
    try:
        text = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        text = []
    return "\n".join(f"    {line}" for line in text or [f"(nothing in {log_file})"])


def _quote_config_value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
