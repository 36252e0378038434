"""A real MinIO and a real Redis-compatible server, each in a folder of its own and on 127.0.0.1 only.

`run.sh`, the tests and the benchmarks all start their servers here, so what is tested is what runs.
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
from typing import Self

from local.errors import CannotRun
from local.minio_binary import find_minio
from local.ports import HOST, free_port
from local.redis_binary import find_redis

__all__ = ["CannotRun", "MinioServer", "RedisServer", "find_minio", "find_redis", "free_port"]

_STOP_S = 10.0
_SAFE_QUEUE_LIMIT = 1_000_000
"""When MinIO's on-disk queue is full it drops events while PUTs succeed: about 10 minutes of full load fit."""

_START_MINIO = Path(__file__).parent.parent / "compose" / "start-minio.sh"
NO_ORIGIN = "https://no-origin.invalid"
"""An origin that no page can have (RFC 2606).  By default MinIO answers the pages of every origin."""


@dataclass
class _Server(ABC):
    """One server process: `start`, `stop`, `kill`, and `start` again in the same folder."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @abstractmethod
    def command(self) -> list[str]:
        """The command line, without secrets, as `start` and the supervisor use it."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What the process needs in its environment, beside PATH, HOME and the like."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folders and files that `command` names.  May be called again at any time."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server does its work now.  Never raises."""

    @property
    def log(self) -> Path:
        """What the server printed since the folder was made, when `start` started it."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The process id; `RuntimeError` when the server was not started, or was stopped."""
        if self._process is None:
            raise RuntimeError(f"the server in {self.folder} is not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C at the terminal does not reach it."""
        if self._process is not None:
            raise RuntimeError(f"the server in {self.folder} is started already")
        self.prepare()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MINIO_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=environment | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once `is_ready`.  Raises `CannotRun`, with the end of the log, when it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self._process is not None and self._process.poll() is not None:
                raise CannotRun(f"{self._name} ended with code {self._process.returncode}:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                raise CannotRun(f"{self._name} is not ready after {timeout_s:.0f} s:\n{tail(self.log)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 10 s.  Returns when the process is gone; harmless when it is already."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill(self._process)
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a power failure would: nothing is flushed.  `start` may follow."""
        if self._process is not None:
            self._kill(self._process)
            self._process = None

    @staticmethod
    def _kill(process: "subprocess.Popen[bytes]") -> None:
        # The whole group: until its users are made MinIO is the child of a shell.  Its port is free when it is gone.
        deadline = time.monotonic() + _STOP_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.01)

    @property
    def _name(self) -> str:
        return type(self).__name__.removesuffix("Server")

    def __enter__(self) -> Self:
        """Start, and wait until ready."""
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()


@dataclass
class RedisServer(_Server):
    """A Redis-compatible server with an append-only file (fsync each second), `noeviction` and a password.

    `binary` is found by `find_redis` when not given.  `acl`: lines of redis.conf that make its users; then `user` is
    one of them, which may send PING.  Without them there is the default user alone, which may do everything.
    """

    password: str = field(repr=False)
    binary: Path | None = None
    user: str = ""
    acl: Sequence[str] = field(default=(), repr=False)

    @property
    def url(self) -> str:
        """`redis://[<user>]:<password>@127.0.0.1:<port>/0`."""
        return f"redis://{self.user}:{self.password}@{HOST}:{self.port}/0"

    @property
    def _config(self) -> Path:
        return self.folder / "redis.conf"

    def start(self) -> None:
        """Start the process and return once it answers, its append-only file loaded."""
        super().start()
        self.wait_ready()

    def command(self) -> list[str]:
        """The server and its configuration file, which holds the password."""
        self.binary = self.binary or find_redis()
        return [str(self.binary), str(self._config)]

    def environment(self) -> dict[str, str]:
        """Nothing: the configuration file says it all."""
        return {}

    def prepare(self) -> None:
        """Make the folder, and the configuration file readable by its owner only."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {_quoted(str(data))}",
            *(self.acl or [f"requirepass {_quoted(self.password)}"]),
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            "set-proc-title no",  # the command line is how a start after a crash knows this process again
        ]
        write_private(self._config, "\n".join(lines) + "\n")

    def is_ready(self) -> bool:
        """Whether PING is answered: not while the append-only file is still being loaded."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                words = [b"AUTH", (self.user or "default").encode(), self.password.encode()]
                request = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
                connection.sendall(b"*3\r\n%sPING\r\n" % request)
                with connection.makefile("rb") as replies:
                    return (replies.readline(), replies.readline()) == (b"+OK\r\n", b"+PONG\r\n")
        except OSError:
            return False


@dataclass
class MinioServer(_Server):
    """A single-folder MinIO with two Redis targets for bucket events.

    ARN `arn:minio:sqs::FAST:redis` pushes to the list `events:fast` at once and forgets when Redis is away;
    `arn:minio:sqs::SAFE:redis` pushes to `events:safe` by way of a queue on disk, up to 3 s later.

    `users_id`: what `worker.server_users.users_id` returns; then root may sign in only until these users are made.
    `metrics_are_public`: whether its metrics need no token.
    """

    console_port: int
    root_user: str
    root_password: str = field(repr=False)
    redis_port: int
    redis_password: str = field(repr=False)
    binary: Path
    redis_host: str = HOST
    redis_user: str = ""
    users_id: str = ""
    metrics_are_public: bool = True

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self.port}"

    @property
    def queue_dir(self) -> Path:
        """Where the SAFE target keeps events that are not in Redis yet."""
        return self.folder / "queue"

    def command(self) -> list[str]:
        """A shell that prepares the start and becomes MinIO."""
        addresses = ["--address", f"{HOST}:{self.port}", "--console-address", f"{HOST}:{self.console_port}"]
        # Certificates in ~/.minio, if there are any, are meant for another MinIO.
        server = ["server", *addresses, "--certs-dir", str(self.folder / "certs"), str(self.folder / "data")]
        return ["/bin/sh", str(_START_MINIO), str(self.folder), self.users_id, str(self.binary), *server]

    def environment(self) -> dict[str, str]:
        """Root's credentials, both event targets, and what makes their events reliable."""
        return {
            "MINIO_ROOT_USER": self.root_user,
            "MINIO_ROOT_PASSWORD": self.root_password,
            **self._target("FAST"),
            **self._target("SAFE"),
            "MINIO_NOTIFY_REDIS_QUEUE_DIR_SAFE": str(self.queue_dir),
            "MINIO_NOTIFY_REDIS_QUEUE_LIMIT_SAFE": str(_SAFE_QUEUE_LIMIT),
            # Without it PUTs are accepted before the notification rules are loaded, and their events are lost.
            "MINIO_SYNC_BOOT": "on",
            # MinIO sends events with as many senders as this says; with one a core they starve in a burst of PUTs.
            "GOMAXPROCS": "8",
            "MINIO_PROMETHEUS_AUTH_TYPE": "public" if self.metrics_are_public else "jwt",
            "MINIO_API_CORS_ALLOW_ORIGIN": os.environ.get("MINIO_API_CORS_ALLOW_ORIGIN") or NO_ORIGIN,
            # MinIO looks through all objects again and again, for quotas and life cycles that nobody has set here.
            "MINIO_SCANNER_SPEED": "slowest",
            "MINIO_BROWSER": "on",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }

    def _target(self, name: str) -> dict[str, str]:
        values = {
            "ENABLE": "on",
            "ADDRESS": f"{self.redis_host}:{self.redis_port}",
            "KEY": f"events:{name.lower()}",
            "FORMAT": "access",
            "USER": self.redis_user,
            "PASSWORD": self.redis_password,
        }
        return {f"MINIO_NOTIFY_REDIS_{key}_{name}": value for key, value in values.items() if value}

    def prepare(self) -> None:
        """Make the folders of data, queue and certificates."""
        for name in ("data", "queue", "certs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def forget_users(self) -> None:
        """Have the next start let root sign in, so that the users are made again."""
        (self.folder / "users-made").unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Whether `/minio/health/cluster` says so; `/live` and `/ready` say it before buckets can be used."""
        return http_get(self.port, "/minio/health/cluster")[0] == 200


def http_get(port: int, path: str, token: str = "") -> tuple[int | None, bytes]:
    """Status and body of `GET path` on this port of 127.0.0.1, whatever proxy is set; no status without an answer.

    `token` is sent as `Authorization: Bearer`, if there is one.
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


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once by a file that only its owner can read (mode 600)."""
    new = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
    new.replace(path)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented; says so when there are none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        text = []
    return "\n".join(f"    {line}" for line in text or [f"(nothing in {log})"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
