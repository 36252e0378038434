"""A complete Rowdrop on its own servers, with processes that a test can control.

It runs everything that ./run.sh starts, except Flower.
"""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioException
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from local.ports import HOST, find_free_port
from local.processes import ROOT, Supervisor, write_credentials
from local.servers import (
    MinioOptions,
    MinioPorts,
    MinioServer,
    RedisAddress,
    RedisServer,
    ServerUser,
    find_minio,
    http_get,
)
from shared.formats.object_names import OUTPUT_KEY
from shared.formats.output_csv import OutputCsv
from shared.formats.records import Row
from shared.object_store import ObjectNotFound, StoreUnavailable
from shared.progress.sweep_record import SweepRecord
from shared.redis_keys import (
    ACTIVE_READS,
    CHANGE_VERSIONS,
    FAST_EVENTS,
    PAGES,
    SUSPECT_USERS,
)
from shared.s3.objects import S3ObjectStore, open_store
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue, create_celery
from tests.conftest import MINIO_PASSWORD, MINIO_USER
from tests.faults.live.protections import REMOVED_FILE
from tests.faults.live.proxy import CuttingProxy
from tests.programs import Programs, write_programs
from worker.commands.check import check_buckets
from worker.commands.provisioning.credential_set import PROCESSES, Credentials
from worker.commands.provisioning.server_users import format_redis_acl
from worker.services.state_parts import build_state
from worker.state.loss_signals import TrustState

CONTROLLED_PROGRAMS = ("listener", "publisher", "worker", "worker-bulk", "api")
"""The processes that a test can kill or stop at a named point."""
WORKERS = {"worker": "events", "worker-2": "events-2", "worker-bulk": "bulk"}
"""The name of each program of a worker, and the name of the worker."""


class WaitTimeout(Exception):
    """A condition was not true within its timeout."""


def wait_until(condition: Callable[[], Any], timeout_s: float, description: str) -> float:
    """Wait until a condition is true, and return how many seconds that took.

    Raises `WaitTimeout` after `timeout_s` seconds. `description` names the condition in the
    message.
    """
    started_at = time.monotonic()
    while not condition():
        if time.monotonic() - started_at > timeout_s:
            raise WaitTimeout(
                f"expected within {timeout_s:.0f} s, but it did not happen: {description}"
            )
        time.sleep(0.1)
    return time.monotonic() - started_at


class BareMinioServer(MinioServer):
    """A MinIO with its default settings for event delivery."""

    def build_environment(self) -> dict[str, str]:
        """Return the environment without `MINIO_SYNC_BOOT` and `GOMAXPROCS`.

        MinIO then may accept files before it has loaded its rules, and may send events late.
        """
        return {
            name: value
            for name, value in super().build_environment().items()
            if name not in {"MINIO_SYNC_BOOT", "GOMAXPROCS"}
        }


def _add_points(name: str, options: dict[str, str]) -> dict[str, str]:
    """Return a program with points to control it, if it is in `CONTROLLED_PROGRAMS`."""
    if name.removesuffix("-2") not in CONTROLLED_PROGRAMS:
        return options
    command = options["command"]
    controlled = command.replace(" -m ", f" -m tests.faults.live.controlled_process {name} ", 1)
    return {**options, "command": controlled}


class LiveRowdrop:
    """A Rowdrop that is started and ready in a `with` block, and stopped at its end.

    - `doubled_programs`: programs that run twice.
    - `removed_protection`: the protection of `PROTECTIONS` that is removed, or empty.
    - `proxied`: all processes reach Redis through `proxy`.
    - `minio_folder`, `redis_folder`: where the servers keep their data.

    Each process has its own users in MinIO and Redis, as with ./run.sh. `settings` are those of the
    test: MinIO's root user, and a Redis user with all permissions.
    """

    def __init__(
        self,
        folder: Path,
        *,
        doubled_programs: Sequence[str] = (),
        removed_protection: str = "",
        proxied: bool = False,
        minio_folder: Path | None = None,
        redis_folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._doubled_programs = doubled_programs
        self._without = removed_protection
        self._environment = environment or {}
        self._stack = ExitStack()
        self.faults_folder = folder / "faults"
        self.faults_folder.mkdir(parents=True)
        self.redis_server = RedisServer(
            redis_folder or folder / "redis", find_free_port(), ServerUser("", MINIO_PASSWORD)
        )
        self.proxy = CuttingProxy(self.redis_server.port) if proxied else None
        redis_port = self.proxy.port if self.proxy else self.redis_server.port
        self.credentials = Credentials.complete({}, {}, f"{HOST}:{redis_port}", time.time())
        default_user_rule = f"user default on >{MINIO_PASSWORD} ~* &* +@all"
        self.redis_server.acl = [default_user_rule, *format_redis_acl(self.credentials.redis)[1:]]
        server_class = BareMinioServer if removed_protection == "event delivery" else MinioServer
        self.minio_server = server_class(
            minio_folder or folder / "minio",
            MinioPorts(find_free_port(), find_free_port()),
            ServerUser(MINIO_USER, MINIO_PASSWORD),
            RedisAddress(HOST, redis_port, *self.credentials.redis["minio"]),
            MinioOptions(find_minio()),
        )
        redis_url = f"redis://:{MINIO_PASSWORD}@{HOST}:{redis_port}/0"
        self.settings = Settings(self.minio_server.endpoint, MINIO_USER, MINIO_PASSWORD, redis_url)
        self.api_port = find_free_port()
        conf = write_programs(folder / "supervisord.conf", self._change_programs)
        self.supervisor = Supervisor(folder / "processes", conf)

    def _change_programs(self, programs: Programs) -> Programs:
        """Return the programs of the app, with points to control those of `CONTROLLED_PROGRAMS`."""
        app = {
            name: options
            for name, options in programs.items()
            if "priority" not in options and name != "flower"
        }
        # One program per worker, as in containers, so that each has a name of its own.
        worker = app.pop("worker")
        for name, worker_name in WORKERS.items():
            command = worker["command"].partition(" events ")[0]
            app[name] = {**worker, "command": f"{command} {worker_name}"}
        doubled = {f"{name}-2": app[name] for name in self._doubled_programs}
        return {name: _add_points(name, options) for name, options in {**app, **doubled}.items()}

    # -- start and stop ----------------------------------------------------------------------------
    def __enter__(self) -> Self:
        """Start everything, and wait until a drop has a row."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        self._stack.enter_context(self.redis_server)
        if self.proxy:
            self._stack.enter_context(self.proxy)
        self._stack.enter_context(self.minio_server)
        self.minio = self.open_client(MINIO_USER, MINIO_PASSWORD)
        self.redis: Any = self._stack.enter_context(
            Redis.from_url(self.redis_server.url, socket_timeout=10, retry=Retry(NoBackoff(), 3))
        )
        self.state = build_state(self.redis)
        self.tasks = TaskQueue(create_celery(self.redis_server.url))
        self._stack.callback(self.tasks.close)
        self.source = open_store(self.settings, self.settings.source_bucket)
        self.output = open_store(self.settings, self.settings.output_bucket)
        self._run_init()
        self.supervisor.folder.mkdir()
        for process in PROCESSES:
            write_credentials(self.supervisor.folder, process, self._credentials_of(process))
        self._stack.callback(self.supervisor.stop)
        self.supervisor.start(self._process_environment(self._without))
        self.supervisor.start_app()
        wait_until(
            lambda: all(self.get_from_api("/health/live")[0] == 200 for _ in range(20)),
            120,
            "each process of the API responds",
        )
        self.put_object("first.csv", b"first_name,last_name,birthts\nFirst,User,1\n")
        wait_until(lambda: "first" in self.read_rows(), 120, "the first drop has a row")
        wait_until(self.is_quiet, 120, "the first sweep is complete")
        (self.faults_folder / REMOVED_FILE).touch()

    def _run_init(self) -> None:
        root_access = {"MINIO_API_ROOT_ACCESS": "on"}  # the test itself works as root
        root = {"MINIO_ROOT_USER": MINIO_USER, "MINIO_ROOT_PASSWORD": MINIO_PASSWORD}
        environment = {
            **self._process_environment(""),
            **self._credentials_of("init"),
            **root,
            **root_access,
        }
        subprocess.run(
            [sys.executable, "-m", "worker.commands.cli", "init"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )

    def _credentials_of(self, process: str) -> dict[str, str]:
        return {
            "MINIO_ENDPOINT": self.minio_server.endpoint,
            **self.credentials.settings_of(process),
        }

    def _process_environment(self, removed_protection: str) -> dict[str, str]:
        own = {
            "ROWDROP_DIR": str(self.supervisor.folder),
            "API_PORT": str(self.api_port),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_FOLDER": str(self.faults_folder),
            "FAULTS_WITHOUT": removed_protection,
        }
        inherited = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR")
            if name in os.environ
        }
        return {**inherited, **own, **self._environment}

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        with suppress(psutil.Error):
            self.resume_stopped()
        self._stack.close()

    @property
    def admin(self) -> MinioAdmin:
        """Return a client with all permissions in MinIO."""
        address = urlsplit(self.settings.minio_endpoint).netloc
        return MinioAdmin(
            endpoint=address,
            credentials=StaticProvider(MINIO_USER, MINIO_PASSWORD),
            region="us-east-1",
            secure=False,
        )

    # -- requests of a client ----------------------------------------------------------------------
    def open_client(self, access_key: str, secret_key: str) -> Minio:
        """Return a MinIO client without retries.

        An error then stands for one write, which may or may not have been done.
        """
        http = PoolManager(
            num_pools=4, maxsize=16, timeout=Timeout(connect=2, read=5), retries=False
        )
        self._stack.callback(http.clear)
        address = urlsplit(self.settings.minio_endpoint).netloc
        return Minio(
            address, access_key, secret_key, secure=False, region="us-east-1", http_client=http
        )

    def put_object(self, key: str, body: bytes) -> None:
        """Put an object into the source bucket. Raises one of `UNREACHABLE` if that fails."""
        self.minio.put_object(self.source.bucket, key, io.BytesIO(body), len(body))

    def remove_object(self, key: str) -> None:
        """Delete an object in the source bucket. Raises one of `UNREACHABLE` if that fails."""
        self.minio.remove_object(self.source.bucket, key)

    def get_from_api(self, path: str) -> tuple[int | None, bytes]:
        """Return status and body of a GET to the API. Without a response, there is no status."""
        return http_get(self.api_port, path)

    def read_rows(self) -> dict[str, Row]:
        """Return the current rows of output.csv by user, or no rows if it cannot be read."""
        try:
            return {
                row.user_id: row
                for row in OutputCsv(self.output.get(OUTPUT_KEY).body).iterate_rows()
            }
        except (ObjectNotFound, StoreUnavailable):
            return {}

    def find_differences(self) -> list[str]:
        """Return the differences that `rowdrop check` finds, or why it cannot compare."""
        try:
            return check_buckets(self.source, self.output).differences
        except StoreUnavailable as error:
            return [str(error)]

    def request_sweep(self, cause: str = "the test") -> None:
        """Request a sweep."""
        SweepRecord(self.redis).request(self.tasks, cause)

    def is_quiet(self) -> bool:
        """Return whether no work is left, as far as Redis shows."""
        try:
            lists = sum(
                self.redis.llen(name) for name in (FAST_EVENTS, EVENTS_QUEUE, BULK_QUEUE, PAGES)
            )
            dirty_count = (
                self.redis.hlen(CHANGE_VERSIONS)
                + self.redis.hlen(ACTIVE_READS)
                + self.redis.scard(SUSPECT_USERS)
            )
            return (
                not lists
                and not dirty_count
                and self.state.loss_signals.trust_state()
                == TrustState("verified", self.state.loss_signals.run_id())
            )
        except RedisError:
            return False

    # -- control of the processes ------------------------------------------------------------------
    def give_order(self, verb: str, point: str) -> None:
        """Order the next process at this point to be killed or stopped.

        `verb` is "kill" or "stop".
        """
        (self.faults_folder / "obeyed").unlink(missing_ok=True)
        new = self.faults_folder / "order.new"
        new.write_text(f"{verb} {point}", encoding="utf-8")
        new.rename(self.faults_folder / "order")

    @property
    def was_obeyed(self) -> bool:
        """Return whether a process has obeyed the order."""
        return (self.faults_folder / "obeyed").exists()

    def cancel_order(self) -> None:
        """Cancel the order."""
        (self.faults_folder / "order").unlink(missing_ok=True)

    def resume_stopped(self) -> None:
        """Resume the process that an order stopped."""
        stopped = self.faults_folder / "stopped"
        if stopped.exists():
            psutil.Process(int(stopped.read_text(encoding="utf-8"))).send_signal(signal.SIGCONT)
            stopped.unlink()

    def set_clock(self, offset_s: float) -> None:
        """Set the offset, in seconds, of the clock of Rowdrop's processes."""
        (self.faults_folder / "clock").write_text(str(offset_s), encoding="utf-8")

    def list_reads(self) -> list[list[str]]:
        """Return the users of each read so far."""
        file = self.faults_folder / "read"
        if not file.exists():
            return []
        return [line.split(" ") for line in file.read_text(encoding="utf-8").splitlines()]

    def list_passed_points(self) -> set[str]:
        """Return the points that were passed."""
        return set((self.faults_folder / "points").read_text(encoding="utf-8").splitlines())

    def list_pids(self, name: str) -> list[int]:
        """Return the PIDs of this program's process and of its children."""
        try:
            leader = psutil.Process(
                int((self.supervisor.folder / "pids" / f"{name}.pid").read_text().split()[0])
            )
            return [leader.pid, *(child.pid for child in leader.children(recursive=True))]
        except (OSError, psutil.Error):
            return []

    def send_signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of this program."""
        for pid in self.list_pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


UNREACHABLE = (MinioException, HTTPError, StoreUnavailable)
"""The errors of a client while MinIO is unreachable."""

__all__ = [
    "CONTROLLED_PROGRAMS",
    "UNREACHABLE",
    "LiveRowdrop",
    "S3ObjectStore",
    "WaitTimeout",
    "wait_until",
]
