"""A whole Rowdrop on servers of its own: what ./run.sh starts but for Flower, in processes that obey."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioException
from minio.notificationconfig import NotificationConfig, QueueConfig
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from local.ports import HOST, free_port
from local.processes import ROOT, Program, Supervisor, app, write_credentials
from local.servers import MinioServer, RedisServer, find_minio, http_get
from shared.object_store import ObjectNotFound, S3ObjectStore, StoreUnavailable, open_store
from shared.output_csv import OutputCsv
from shared.published import OUTPUT
from shared.records import Row
from shared.settings import Settings
from shared.task_queue import TaskQueue, create_celery
from tests.conftest import PASSWORD, USER
from tests.faults.live.proxy import Proxy
from tests.faults.live.removed import REMOVED
from worker.backlog import Backlog
from worker.check import check
from worker.credential_set import PROCESSES, Credentials
from worker.notifications import EVENTS, arn
from worker.server_users import redis_acl
from worker.sweep_record import SweepRecord

ORDERLY = ("listener", "publisher", "worker", "worker-2", "worker-bulk", "beat", "api")
"""The processes that can be told to die or stop at a named point."""


class NotInTime(Exception):
    """Something did not come about in the time it may take."""


def until(condition: Callable[[], Any], patience_s: float, what: str) -> float:
    """Wait for it; how many seconds that took.  Raises `NotInTime`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience_s:
            raise NotInTime(f"{what}: not within {patience_s:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - began


class FastOnlyMinio(MinioServer):
    """A MinIO that keeps no events on its disk."""

    def environment(self) -> dict[str, str]:
        """Without the second target."""
        return {name: value for name, value in super().environment().items() if not name.endswith("_SAFE")}


class BareMinio(FastOnlyMinio):
    """A MinIO as it is when nobody has set anything for it."""

    def environment(self) -> dict[str, str]:
        """Without what makes it send events in time, and look at its rules before it takes files."""
        return {
            name: value
            for name, value in super().environment().items()
            if name not in {"MINIO_SYNC_BOOT", "GOMAXPROCS"}
        }


class Live:
    """`with Live(folder)`: started and ready, stopped at the end.

    `twice`: programs of which there are two.  `without`: what of `removed.REMEDIES` is taken away.  `safe`: whether
    MinIO keeps copies of events on its disk.  `proxied`: everyone reaches Redis through `proxy`.  `minio_folder`,
    `redis_folder`: where the servers keep their data.

    Each process has its own users in MinIO and Redis, as with ./run.sh.  `settings` are those of the test: root's, and
    those of a user of Redis that may do everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        twice: Sequence[str] = (),
        without: str = "",
        safe: bool = True,
        proxied: bool = False,
        minio_folder: Path | None = None,
        redis_folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._twice, self._without = folder, twice, without
        self._environment = environment or {}
        self._stack = ExitStack()
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.redis_server = RedisServer(redis_folder or folder / "redis", free_port(), PASSWORD)
        self.proxy = Proxy(self.redis_server.port) if proxied else None
        redis_port = self.proxy.port if self.proxy else self.redis_server.port
        self.credentials = Credentials.complete({}, {}, f"{HOST}:{redis_port}", time.time())
        ours = f"user default on >{PASSWORD} ~* &* +@all"
        self.redis_server.acl = [ours, *redis_acl(self.credentials.redis)[1:]]
        self._safe = safe and without != "care of events"
        kind = BareMinio if without == "care of events" else MinioServer if safe else FastOnlyMinio
        self.minio_server = kind(
            minio_folder or folder / "minio", free_port(), free_port(), USER, PASSWORD, redis_port,
            self.credentials.redis["minio"].password, find_minio(), redis_user=self.credentials.redis["minio"].name,
        )  # fmt: skip
        redis_url = f"redis://:{PASSWORD}@{HOST}:{redis_port}/0"
        self.settings = Settings(self.minio_server.endpoint, USER, PASSWORD, redis_url)
        self.api_port = free_port()
        self.supervisor = Supervisor(folder / "processes", self._programs())

    def _programs(self) -> list[Program]:
        programs = [program for program in app(self.api_port) if program.name != "flower"]
        programs += [replace(program, name=f"{program.name}-2") for program in programs if program.name in self._twice]
        return [
            self._orderly(program) if program.name.removesuffix("-2") in ORDERLY else program for program in programs
        ]

    def _orderly(self, program: Program) -> Program:
        python, _, *rest = program.command
        return replace(program, command=[python, "-m", "tests.faults.live.wrapped", program.name, *rest])

    # -- its life ----------------------------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        """Start everything, and wait until a drop is answered by a row."""
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
        self.minio = self.client(USER, PASSWORD)
        self.redis: Any = self._stack.enter_context(
            Redis.from_url(self.redis_server.url, socket_timeout=10, retry=Retry(NoBackoff(), 3))
        )
        self.backlog = Backlog(self.redis)
        self.tasks = TaskQueue(create_celery(self.redis_server.url))
        self._stack.callback(self.tasks.close)
        self.source = open_store(self.settings, self.settings.source_bucket)
        self.output = open_store(self.settings, self.settings.output_bucket)
        self._prepare()
        self.supervisor.folder.mkdir()
        for process in PROCESSES:
            write_credentials(self.supervisor.folder, process, self._credentials_of(process))
        self._stack.callback(self.supervisor.stop)
        self.supervisor.start(self._process_environment(self._without))
        self.supervisor.start_app()
        until(
            lambda: all(self.get("/health/live")[0] == 200 for _ in range(20)), 120, "each process of the API is there"
        )
        self.put("first.csv", b"first_name,last_name,birthts\nFirst,User,1\n")
        until(lambda: "first" in self.rows(), 120, "the first row")
        until(self.quiet, 120, "the first sweep")
        (self.faults / REMOVED).touch()

    def _api_is_there(self) -> bool:
        return all(self.get("/health/live")[0] == 200 for _ in range(20))

    def _prepare(self) -> None:
        root_stays = {"MINIO_API_ROOT_ACCESS": "on"}  # for what the test does
        root = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD}
        environment = {**self._process_environment(""), **self._credentials_of("init"), **root, **root_stays}
        subprocess.run(
            [sys.executable, "-m", "worker.init"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        if not self._safe:
            rules = NotificationConfig(queue_config_list=[QueueConfig(EVENTS, "rowdrop-fast", queue=arn("FAST"))])
            self.minio.set_bucket_notification(self.source.bucket, rules)
            self.backlog.note_notifications(come=True)

    def _credentials_of(self, process: str) -> dict[str, str]:
        return {"MINIO_ENDPOINT": self.minio_server.endpoint, **self.credentials.settings_of(process)}

    def _process_environment(self, without: str) -> dict[str, str]:
        mine = {
            "ROWDROP_DIR": str(self.supervisor.folder),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_FOLDER": str(self.faults),
            "FAULTS_WITHOUT": without,
        }
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**inherited, **mine, **self._environment}

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        with suppress(psutil.Error):
            self.resume()
        self._stack.close()

    @property
    def admin(self) -> MinioAdmin:
        """Who may do everything with MinIO."""
        address = urlsplit(self.settings.minio_endpoint).netloc
        return MinioAdmin(
            endpoint=address, credentials=StaticProvider(USER, PASSWORD), region="us-east-1", secure=False
        )

    # -- what a user does ----------------------------------------------------------------------------------------------
    def client(self, access_key: str, secret_key: str) -> Minio:
        """A client that does not try again by itself: an error is one write that may or may not have been done."""
        http = PoolManager(num_pools=4, maxsize=16, timeout=Timeout(connect=2, read=5), retries=False)
        self._stack.callback(http.clear)
        address = urlsplit(self.settings.minio_endpoint).netloc
        return Minio(address, access_key, secret_key, secure=False, region="us-east-1", http_client=http)

    def put(self, key: str, body: bytes) -> None:
        """Raises what `client` says."""
        self.minio.put_object(self.source.bucket, key, io.BytesIO(body), len(body))

    def remove(self, key: str) -> None:
        """The same."""
        self.minio.remove_object(self.source.bucket, key)

    def get(self, path: str) -> tuple[int | None, bytes]:
        """What the API answers; no status without an answer."""
        return http_get(self.api_port, path)

    def rows(self) -> dict[str, Row]:
        """What output.csv says now; nothing while it cannot be read."""
        try:
            return {row.user_id: row for row in OutputCsv(self.output.get(OUTPUT).body).rows()}
        except (ObjectNotFound, StoreUnavailable):
            return {}

    def differences(self) -> list[str]:
        """What `worker.check` finds."""
        try:
            return check(self.source, self.output)
        except StoreUnavailable as error:
            return [str(error)]

    def sweep(self, cause: str = "the test") -> None:
        """Have a sweep begun."""
        SweepRecord(self.redis).request(self.tasks, cause)

    def quiet(self) -> bool:
        """Whether nothing is left to do, as far as one can see."""
        try:
            lists = sum(self.redis.llen(name) for name in ("events:fast", "events:safe", "events", "bulk", "pages"))
            left = self.redis.hlen("dirty") + self.redis.hlen("readings") + self.redis.scard("doubtful")
            return not lists and not left and self.backlog.epoch() == f"ok:{self.backlog.run_id()}"
        except RedisError:
            return False

    # -- what befalls it ---------------------------------------------------------------------------------------------
    def order(self, verb: str, point: str) -> None:
        """ "kill" or "stop" whoever comes to this point next."""
        (self.faults / "obeyed").unlink(missing_ok=True)
        new = self.faults / "order.new"
        new.write_text(f"{verb} {point}", encoding="utf-8")
        new.rename(self.faults / "order")

    @property
    def obeyed(self) -> bool:
        """Whether somebody came there."""
        return (self.faults / "obeyed").exists()

    def cancel(self) -> None:
        """Nobody is to obey any more."""
        (self.faults / "order").unlink(missing_ok=True)

    def resume(self) -> None:
        """Whoever was stopped by an order goes on."""
        stopped = self.faults / "stopped"
        if stopped.exists():
            psutil.Process(int(stopped.read_text(encoding="utf-8"))).send_signal(signal.SIGCONT)
            stopped.unlink()

    def set_clock(self, offset_s: float) -> None:
        """So many seconds are added to what Rowdrop's processes take for the time of day."""
        (self.faults / "clock").write_text(str(offset_s), encoding="utf-8")

    def read(self) -> list[list[str]]:
        """Who was read so far: the users of each reading."""
        file = self.faults / "read"
        return [line.split(" ") for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def points(self) -> set[str]:
        """The points that were passed."""
        return set((self.faults / "points").read_text(encoding="utf-8").splitlines())

    def pids(self, name: str) -> list[int]:
        """The process of this program, and its children."""
        try:
            leader = psutil.Process(int((self.supervisor.folder / "pids" / f"{name}.pid").read_text().split()[0]))
            return [leader.pid, *(child.pid for child in leader.children(recursive=True))]
        except (OSError, psutil.Error):
            return []

    def signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of this program."""
        for pid in self.pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def log(self, name: str) -> str:
        """What this program said."""
        file = self.supervisor.log(name)
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _base(program: Program) -> str:
    return program.name.removesuffix("-2")


UNREACHABLE = (MinioException, HTTPError, StoreUnavailable)
"""What a client gets from a MinIO that is away."""

__all__ = ["ORDERLY", "UNREACHABLE", "Live", "NotInTime", "S3ObjectStore", "until"]
