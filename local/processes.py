"""Rowdrop's processes under supervisor, which restarts what dies.

`programs` is the table of them.  Each is started by a small shell script of its own in `$ROWDROP_DIR/start`, which can
be read, and run by hand; `supervisorctl -c $ROWDROP_DIR/supervisord.conf status` shows them.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import cast
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from local.errors import CannotRun
from local.left_overs import stop_all
from local.servers import MinioServer, RedisServer, tail, write_private

ROOT = Path(__file__).parent.parent
"""The checkout: all processes run in it."""

APP = "rowdrop"
CREDENTIALS = "credentials"
"""The folder in $ROWDROP_DIR with a file of settings for each process."""
_STOP_S = 30.0
_SUPERVISOR = "supervisord"
_LONGEST_SOCKET = 85  # bytes; the kernel takes 104 (macOS), supervisor adds its pid
_PYTHON = sys.executable


@dataclass(frozen=True, slots=True)
class Program:
    """One process that is kept running.  `stop_s`: seconds from SIGTERM to SIGKILL.

    `process` is its name in `worker.credential_set.PROCESSES`: it gets the settings of $ROWDROP_DIR/credentials/
    <process>.env beside its environment.  The app's programs are started when the servers are prepared, and stopped
    before them.
    """

    name: str
    command: Sequence[str]
    stop_s: int = 10
    is_server: bool = False
    process: str = ""


def servers(redis: RedisServer | None, minio: MinioServer | None) -> list[Program]:
    """The servers that are ours, in the order in which they start; they stop the other way round."""
    table = []
    if redis:
        table.append(Program("redis", redis.command(), stop_s=5, is_server=True))
    if minio:
        table.append(Program("minio", minio.command(), stop_s=5, is_server=True, process="minio"))
    return table


def app(api_port: int) -> list[Program]:
    """Rowdrop's own processes.  Addresses and credentials come by the environment."""
    celery = [_PYTHON, "-m", "celery", "-A"]
    worker = [*celery, "worker.app", "worker"]
    events = [*worker, "-Q", "events", "--pool", "solo"]
    gunicorn = [_PYTHON, "-m", "gunicorn", "-c", "api/gunicorn_conf.py", "--no-control-socket"]
    flower = [*celery, "worker.scheduler", "flower", "--conf=worker/flower_conf.py"]
    return [
        Program("listener", [_PYTHON, "-m", "worker.listener"], process="listener"),
        Program("publisher", [_PYTHON, "-m", "worker.publisher"], process="publisher"),
        # Two, so that drops go on while one is stuck.
        Program("worker", [*events, "-n", "events@%h"], process="worker"),
        Program("worker-2", [*events, "-n", "events-2@%h"], process="worker"),
        Program(
            "worker-bulk", [*worker, "-Q", "bulk", "--pool", "prefork", "-c", "2", "-n", "bulk@%h"], process="worker"
        ),
        Program("beat", [*celery, "worker.scheduler", "beat"], process="beat"),
        Program("api", [*gunicorn, "--bind", f"127.0.0.1:{api_port}", "api.wsgi:app"], process="api"),
        Program("flower", flower, stop_s=5, process="flower"),
    ]


class Supervisor:
    """Supervisor with these programs in `folder`.  The process that made it stays responsible: it must `stop`."""

    def __init__(self, folder: Path, programs: Sequence[Program]) -> None:
        self.folder = folder
        self._programs = programs
        self._socket = _socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start supervisor and the servers.  Raises `CannotRun` when it does not come up."""
        self._write_files()
        with (self.folder / "logs" / "supervisord.out").open("wb") as out:
            self._process = subprocess.Popen(
                ["/bin/sh", str(self._script(_SUPERVISOR))],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, in the right order
            )
        deadline = time.monotonic() + 15
        while self.states() is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"supervisor does not start:\n{tail(self.folder / 'logs' / 'supervisord.out')}")
            time.sleep(0.05)

    def start_app(self) -> None:
        """Start all that is not a server, without waiting for it."""
        with self._connected() as proxy:
            proxy.supervisor.startProcessGroup(APP, False)

    def restart(self, name: str) -> None:
        """Stop a program and start it again; return when it is started."""
        with self._connected() as proxy:
            proxy.supervisor.stopProcess(name)
            proxy.supervisor.startProcess(name)

    def states(self) -> dict[str, str] | None:
        """Name to supervisor's word for its state ("RUNNING", "BACKOFF", …); None when supervisor does not answer."""
        with suppress(OSError, HTTPException, Fault), self._connected() as proxy:
            answer = cast(list[dict[str, str]], proxy.supervisor.getAllProcessInfo())
            return {info["name"]: info["statename"] for info in answer}
        return None

    def log(self, name: str) -> Path:
        """What this program printed, the last 10 MB of it; older parts lie beside it."""
        return self.folder / "logs" / f"{name}.log"

    def wait(self) -> None:
        """Sleep until supervisor ends, which it does not by itself."""
        if self._process:
            self._process.wait()

    def stop(self) -> None:
        """Stop the app, then MinIO, then Redis.  When it returns none of their processes is left."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        stop_left_overs(self.folder, lambda _: None)
        if self._socket.parent != self.folder:
            self._socket.unlink(missing_ok=True)
            self._socket.parent.rmdir()

    def _connected(self) -> ServerProxy:
        return ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, f"unix://{self._socket}"))

    def _script(self, name: str) -> Path:
        return self.folder / "start" / f"{name}.sh"

    def _write_files(self) -> None:
        for name in ("logs", "start", "pids", CREDENTIALS):
            (self.folder / name).mkdir(exist_ok=True)
        conf = self.folder / "supervisord.conf"
        write_private(conf, _conf(self._programs, self._socket))
        supervisord = Program(_SUPERVISOR, [_PYTHON, "-m", "supervisor.supervisord", "-n", "-c", str(conf)])
        for program in (supervisord, *self._programs):
            self._write_script(program)

    def _write_script(self, program: Program) -> None:
        words = [shlex.quote(word) for word in program.command]
        directory = self.folder if program.name == _SUPERVISOR else ROOT
        pid_file = shlex.quote(str(self.folder / "pids" / f"{program.name}.pid"))
        lines = [
            "# Written by run.sh at each start.",
            f"cd {shlex.quote(str(directory))} || exit 1",
            # How a start after a crash knows the process again: its number, and how its command line ends.
            f"printf '%s\\n' $$ {' '.join(words[-2:])} >{pid_file}",
            *self._credentials_of(program),
            f"exec {' '.join(words)}",
        ]
        write_private(self._script(program.name), "\n".join(lines) + "\n")

    def _credentials_of(self, program: Program) -> list[str]:
        if not program.process:
            return []
        file = self.folder / CREDENTIALS / f"{program.process}.env"
        return ["set -a", f". {shlex.quote(str(file))}", "set +a"]


def write_credentials(folder: Path, process: str, settings: Mapping[str, str]) -> None:
    """Write what a process gets beside its environment, as lines of a shell that its owner alone can read."""
    (folder / CREDENTIALS).mkdir(mode=0o700, exist_ok=True)
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(settings.items())]
    write_private(folder / CREDENTIALS / f"{process}.env", "\n".join(lines) + "\n")


def read_credentials(folder: Path, process: str) -> dict[str, str]:
    """Return what `write_credentials` wrote."""
    lines = (folder / CREDENTIALS / f"{process}.env").read_text(encoding="utf-8").splitlines()
    settings = (shlex.split(line)[0].partition("=") for line in lines)
    return {name: value for name, _, value in settings}


def stop_left_overs(folder: Path, told: Callable[[list[str]], None]) -> None:
    """Stop what a killed Rowdrop in this folder left: supervisor, which stops the rest; else app, MinIO, Redis.

    `told` gets the names of those that are about to be stopped.
    """
    pids = folder / "pids"
    stop_all(pids, [_SUPERVISOR], _STOP_S, told)
    names = {path.stem for path in pids.glob("*.pid")} - {_SUPERVISOR}
    for stage in (names - {"redis", "minio"}, {"minio"}, {"redis"}):
        stop_all(pids, sorted(stage), 10, told)
    for path in pids.glob("*.pid"):
        path.unlink()


def _socket_path(folder: Path) -> Path:
    """Beside the data; in a short temporary folder when the path is too long for a socket or odd for supervisor."""
    path = folder / "supervisor.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET or set(str(path)) & set(" %;#'\""):
        return Path(tempfile.mkdtemp(prefix="rowdrop-", dir="/tmp")) / path.name
    return path


def _conf(programs: Sequence[Program], socket: Path) -> str:
    """Supervisor's configuration.  All paths but the socket's are relative to the folder: none needs quoting."""
    app_names = [program.name for program in programs if not program.is_server]
    parts = [_CONF.format(socket=socket, app=APP, names=",".join(app_names))]
    for place, program in enumerate(programs):
        started = "true" if program.is_server else "false"
        parts.append(_PROGRAM.format(name=program.name, place=place, started=started, stop_s=program.stop_s))
    return "\n".join(parts)


_CONF = """\
; Written by run.sh at each start.
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
nodaemon=true
silent=true
logfile=logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=3
pidfile=supervisord.pid
umask=077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[group:{app}]
programs={names}
priority=900
"""

# TERM goes to the leader alone: Celery and gunicorn end their children themselves, after their work.
_PROGRAM = """\
[program:{name}]
command=/bin/sh start/{name}.sh
priority={place}
autostart={started}
autorestart=true
startretries=1000000
stopsignal=TERM
stopwaitsecs={stop_s}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""
