"""What keeps processes small: they import only what they use, and forked ones share the rest."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from kombu.exceptions import OperationalError

from worker.sweep_clock import SweepClock

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "MINIO_ENDPOINT": "http://127.0.0.1:1",
    "MINIO_ACCESS_KEY": "an access key",
    "MINIO_SECRET_KEY": "a secret key",
    "REDIS_URL": "redis://127.0.0.1:1",
    "GENERATED_API_TOKEN": "a-token-of-more-than-20-characters",
}
USE_ARROW = (
    "import numpy as np, pyarrow as pa;"
    "pa.array(['a']); pa.scalar('a', pa.string()); pa.array(np.arange(3)).to_numpy()"
)
LISTENER_PARTS = (
    "from worker.services.clients import ServerClients;"
    "from worker.services.container import Services;"
    "Services(ServerClients.from_environment()).watchdog"
)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | SETTINGS,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.mark.parametrize(
    ("statements", "not_imported"),
    [
        (f"import worker.listener; {LISTENER_PARTS}", "pandas pyarrow numpy"),
        ("import worker.app", "pandas pyarrow numpy minio flower tornado"),
        (
            "import worker.publisher; from shared.arrow import avoid_pandas; avoid_pandas();"
            f"import worker.publishing.publisher; {USE_ARROW}",
            "pandas minio celery kombu",
        ),
        (f"import api.asgi; {USE_ARROW}", "pandas"),
        ("import local.run", "pandas pyarrow numpy minio redis celery obstore"),
    ],
    ids=["listener", "event worker", "publisher", "api", "run.sh"],
)
def test_process_imports_only_what_it_uses(statements: str, not_imported: str) -> None:
    names = not_imported.split()
    code = f"import sys; {statements}; print(*(name for name in {names} if sys.modules.get(name)))"
    assert run_python(code) == ""


FORKED = """
import os, sys, time
from pathlib import Path
from worker.services import forked_processes
forked_processes.CHECK_EVERY_S = 0.01
folder = Path(sys.argv[1])

def run(name):
    pool_process = os.fork()  # holds copies of all pipes
    if pool_process:
        (folder / f"pool.{pool_process}").touch()
        (folder / f"{name}.{os.getpid()}").touch()
    time.sleep(600)

functions = {name: (lambda name=name: run(name)) for name in ("one", "two")}
forked_processes.ForkedProcesses(functions).run_until_stopped()
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Forked:
    """A parent of the processes `one` and `two`, each of which has a process that outlives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [sys.executable, "-c", FORKED, str(folder)]
        self.parent = subprocess.Popen(command, cwd=ROOT)
        wait_until(lambda: bool(self.list_started("one") and self.list_started("two")))

    def list_started(self, name: str) -> list[int]:
        """Return the PIDs of all processes that were started under this name."""
        return [int(path.suffix[1:]) for path in self._folder.glob(f"{name}.*")]

    def list_running(self) -> list[int]:
        """Return the PIDs of the processes that run."""
        pids = self.list_started("one") + self.list_started("two")
        return [
            pid
            for pid in pids
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Forked]:
    forked = Forked(tmp_path)
    yield forked
    forked.parent.kill()
    forked.parent.wait()
    for pid in forked.list_started("pool"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_forked_processes_start_a_dead_one_again(forked: Forked) -> None:
    (first,) = forked.list_started("one")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(forked.list_started("one")) == 2)
    assert len(forked.list_started("two")) == 1
    forked.parent.terminate()
    assert forked.parent.wait(30) == 0


def test_forked_processes_end_on_sigterm(forked: Forked) -> None:
    forked.parent.terminate()
    assert forked.parent.wait(30) == 0
    assert forked.list_running() == []


def test_forked_processes_die_with_their_parent(forked: Forked) -> None:
    forked.parent.kill()
    forked.parent.wait()
    wait_until(lambda: forked.list_running() == [])


def test_sweep_clock_enqueues_once_per_interval() -> None:
    now = [0.0]
    sent: list[float] = []
    clock = SweepClock(lambda: sent.append(now[0]), 60, lambda: now[0])
    for now[0] in range(0, 200, 2):
        clock.tick()
    assert sent == [60, 120, 180]


def test_sweep_clock_tries_again_after_an_error() -> None:
    now = [0.0]
    sent: list[float] = []

    def enqueue() -> None:
        if now[0] < 70:
            raise OperationalError("Redis is down")
        sent.append(now[0])

    clock = SweepClock(enqueue, 60, lambda: now[0])
    for now[0] in range(0, 100, 2):
        clock.tick()
    assert sent == [70]


def test_workers_import_only_installed_packages() -> None:
    """The test environment has more packages than the image of the workers."""
    code = "from worker.app import BULK_IMPORTS, LATE_IMPORTS; print(*LATE_IMPORTS, *BULK_IMPORTS)"
    packages = {module.partition(".")[0] for module in run_python(code).split()}
    requirements = (ROOT / "requirements" / "worker.txt").read_text(encoding="utf-8")
    assert packages - {"worker"} <= set(re.findall(r"^([a-z]+)==", requirements, re.MULTILINE))


def test_api_encodes_selected_columns_without_pandas() -> None:
    printed = run_python(
        "from shared.arrow import avoid_pandas; avoid_pandas(); import pyarrow as pa;"
        "from api.answers.formats import encode_csv_columns;"
        "columns = pa.table({'last_name': ['Lee, Jr.', 'O\"N', ''], 'birthts': [0, -1, 1]});"
        "print(repr(encode_csv_columns(columns)))"
    )
    assert printed == repr(b'last_name,birthts\n"Lee, Jr.",0\n"O""N",-1\n,1\n')
