"""The Rowdrop under test, as ./run.sh starts it, in a temporary folder and on free ports."""

import http.client
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from minio import Minio
from minio.deleteobjects import DeleteObject
from redis import Redis

from local.configuration import DEFAULT_PORTS, load_saved_settings
from local.errors import StartupError
from local.ports import HOST, find_free_port
from local.processes import ROOT, read_credentials
from local.servers import find_minio, find_redis, http_get, read_log_tail
from local.signals import ignore_stop_signals
from shared.formats.object_names import OUTPUT_KEY
from shared.redis_keys import CHANGE_VERSIONS, FAST_EVENTS, LAST_SWEEP, SWEEP_LEASE, SWEEP_REQUESTED
from shared.s3.objects import S3ObjectStore, open_store
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue, create_celery
from worker.services.state_parts import build_state

Reporter = Callable[[str], None]

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_SETTING_PREFIXES = (
    "MINIO_", "REDIS_", "FLOWER_", "SOURCE_", "OUTPUT_", "SWEEP_", "PUBLISH_", "LOG_", "API_",
    "IMAGES", "PUBLIC_", "BIND_", "ALLOWED_", "CORS_", "MAX_", "PROGRESS_",
)  # fmt: skip
_IDLE_S = 0.5


class WaitTimeout(Exception):
    """A condition was not met within its deadline."""


class UnexpectedResult(Exception):
    """A server or Rowdrop misbehaved, so a figure would be meaningless."""


class RowdropInstance:
    """A running instance: the addresses of its servers, and clients for them.

    `pid` is the root of its process tree.
    """

    def __init__(self, folder: Path, pid: int, minio_binary: Path) -> None:
        saved = load_saved_settings(folder / ".env")
        self.folder = folder
        self.pid = pid
        self.minio_binary = minio_binary
        # MinIO's root credentials, because the benchmark creates buckets. In Redis the worker's
        # user has all the permissions that are needed.
        self.settings = Settings(
            saved["MINIO_ENDPOINT"],
            saved["MINIO_ROOT_USER"],
            saved["MINIO_ROOT_PASSWORD"],
            read_credentials(folder, "worker")["REDIS_URL"],
        )
        self.api_port = int(saved["API_PORT"])
        self.redis: Any = Redis.from_url(self.settings.redis_url, socket_timeout=10)
        self.tasks = TaskQueue(create_celery(self.settings.redis_url))
        self.source = self.open_bucket(self.settings.source_bucket)
        self.output = self.open_bucket(self.settings.output_bucket)
        address = urlsplit(self.settings.minio_endpoint).netloc
        self._minio = Minio(
            address, self.settings.minio_access_key, self.settings.minio_secret_key, secure=False
        )
        self.objects_on_disk = folder / "minio" / "data"
        self._state = build_state(self.redis)

    def open_bucket(self, bucket: str) -> S3ObjectStore:
        """Return a store for a bucket."""
        return open_store(self.settings, bucket)

    def create_bucket(self) -> S3ObjectStore:
        """Create a bucket without notifications."""
        bucket = f"bench-{secrets.token_hex(4)}"
        self._minio.make_bucket(bucket)
        return self.open_bucket(bucket)

    def delete_bucket(self, store: S3ObjectStore) -> None:
        """Delete a bucket and its objects, because MinIO spends time on every bucket (scanner)."""
        objects = [DeleteObject(info.key) for page in store.list_objects() for info in page]
        for error in self._minio.remove_objects(store.bucket, objects):
            raise UnexpectedResult(f"{error.name} could not be removed: {error.message}")
        self._minio.remove_bucket(store.bucket)

    def connect_api(self) -> http.client.HTTPConnection:
        """Return a persistent connection to the API; its first request opens it."""
        return http.client.HTTPConnection(HOST, self.api_port, timeout=10)

    def verify_output(self, body: bytes) -> None:
        """Raise `UnexpectedResult` unless these bytes are the output.csv that a client gets."""
        if self.output.get(OUTPUT_KEY).body != body:
            raise UnexpectedResult(f"{OUTPUT_KEY} does not match the dropped files")

    def wait_until_idle(self, timeout_s: float = 180.0) -> None:
        """Wait until no work is left and a sweep marks no user. Raises `WaitTimeout`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._wait_until_queues_empty(deadline)
            if self.run_sweep(deadline - time.monotonic()) == 0 and not self._count_pending_work():
                return

    def run_sweep(self, timeout_s: float = 60.0) -> int:
        """Run a sweep, wait for its end, and return the number of marked users.

        Raises `WaitTimeout`.
        """
        last_sweep_before = self.redis.hget(LAST_SWEEP, "at")
        self.tasks.sweep("bench")

        def has_ended() -> bool:
            is_committed = self.redis.hget(LAST_SWEEP, "at") != last_sweep_before
            return is_committed and not self.redis.exists(SWEEP_LEASE)

        wait_until(has_ended, timeout_s, "a sweep", 0.002)
        return int(self.redis.hget(LAST_SWEEP, "marked"))

    def _wait_until_queues_empty(self, deadline: float) -> None:
        quiet_since = time.monotonic()
        while (now := time.monotonic()) - quiet_since < _IDLE_S:
            if now > deadline:
                raise WaitTimeout(f"work is still left: {self._count_pending_work()}")
            if self._count_pending_work():
                quiet_since = now
            time.sleep(0.05)

    def _count_pending_work(self) -> dict[str, int]:
        """Return the kinds of work that are left, and the size of each backlog."""
        queues = (FAST_EVENTS, EVENTS_QUEUE, BULK_QUEUE)
        event_files = list((self.folder / "minio" / "queue").rglob("*.event*"))
        counts = {
            "dirty": self.redis.hlen(CHANGE_VERSIONS),
            "staged": self._state.publish_queue.count_pending(),
            "pages": self._state.work_queues.count_pages(),
            "sweep": self.redis.exists(SWEEP_LEASE, SWEEP_REQUESTED),
            "events on disk": len(event_files),
            **{name: self.redis.llen(name) for name in queues},
        }
        return {name: count for name, count in counts.items() if count}


@contextmanager
def start_instance(report: Reporter) -> Iterator[RowdropInstance]:
    """Start an instance, yield it, and always stop it and delete its folder.

    Raises `StartupError`.
    """
    _apply_minio_binary_of_checkout()
    binary = find_minio(report=report)
    _ = find_redis(report)
    folder = Path(tempfile.mkdtemp(prefix="rowdrop-bench-"))
    try:
        with (folder / "run.out").open("wb") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "local.run", "--empty"],
                cwd=ROOT,
                env=_build_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # keeps Ctrl-C from the instance; _stop() terminates it
            )
        try:
            report("Starting a Rowdrop for the benchmark …")
            _wait_until_ready(process, folder)
            yield RowdropInstance(folder, process.pid, binary)
        finally:
            ignore_stop_signals()
            report("Stopping the Rowdrop of the benchmark …")
            _stop_process(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _apply_minio_binary_of_checkout() -> None:
    requested = dotenv_values(ROOT / ".env").get("MINIO_BINARY")
    if requested:
        os.environ.setdefault("MINIO_BINARY", requested)


def _build_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with free ports and without the user's Rowdrop settings.

    Those settings belong to another instance. They are set to empty, which counts as unset.
    """
    inherited = {**dotenv_values(ROOT / ".env", interpolate=False), **os.environ}
    rowdrop_names = {name for name in inherited if name.startswith(_SETTING_PREFIXES)}
    cleared = dict.fromkeys(rowdrop_names - {"MINIO_BINARY"}, "")
    ports: dict[str, str] = {}
    for name in DEFAULT_PORTS:
        # A port stays free until a server binds it, so the same one may be found again.
        while (port := str(find_free_port())) in ports.values():
            pass
        ports[name] = port
    # Root access stays on, because the benchmark creates buckets as root.
    return {
        **os.environ,
        **cleared,
        **ports,
        "ROWDROP_DIR": str(folder),
        "MINIO_API_ROOT_ACCESS": "on",
    }


def _wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    def is_ready() -> bool:
        if process.poll() is not None:
            log_tail = read_log_tail(folder / "run.out")
            raise StartupError(f"Rowdrop did not start; its output ends with:\n{log_tail}")
        port = load_saved_settings(folder / ".env").get("API_PORT")
        return port is not None and http_get(int(port), "/health/ready")[0] == 200

    try:
        wait_until(is_ready, _START_TIMEOUT_S, "Rowdrop to become ready", 0.1)
    except WaitTimeout as error:
        raise StartupError(f"{error}:\n{read_log_tail(folder / 'run.out')}") from error


def _stop_process(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    process.kill()
    process.wait()


def wait_until(
    condition: Callable[[], object], timeout_s: float, description: str, poll_s: float
) -> None:
    """Poll every `poll_s` seconds until the condition is true.

    Raises `WaitTimeout` after `timeout_s` seconds; its message names what was awaited, as given in
    `description`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise WaitTimeout(f"waited {timeout_s:.0f} s for {description}")
        time.sleep(poll_s)
