"""One of Rowdrop's processes, wrapped so that a test can kill or stop it at a named point.

`python -m tests.faults.live.controlled_process NAME MODULE ARGUMENT…` runs MODULE as `python -m`
does. The wrappers are between the module and its ports: the to-do list in Redis, the task queue and
the buckets. The module itself is unchanged.

A point is "NAME before REQUEST" or "NAME after REQUEST". The test controls the process by files in
the folder `$FAULTS_FOLDER`:

- `order`: "kill POINT" or "stop POINT". The first process at that point obeys it, once.
- `obeyed`: the order after that. `stopped`: the PID of a stopped process.
- `points`: the points that were passed.
- `clock`: seconds to add to the time of day.
- `read`: the users that were read, one line per read.
"""

import functools
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.progress.rebuilds import Rebuilds
from shared.progress.unpacks import PreviousVersions
from shared.s3.objects import S3ObjectStore
from shared.task_queue import TaskQueue
from tests.faults.live.protections import prepare_to_remove
from worker.state.event_inbox import EventInbox
from worker.state.loss_signals import LossSignals
from worker.state.publish_queue import PublishQueue
from worker.state.user_states import UserStates
from worker.state.work_queues import WorkQueues

WRAPPED_METHODS: dict[type, tuple[str, ...]] = {
    EventInbox: ("peek", "mark_and_pop"),
    UserStates: ("mark", "begin_read", "submit_results", "take_ownership"),
    PublishQueue: ("acquire_writer", "commit_publish", "wake_publisher"),
    WorkQueues: ("add_page", "take_page"),
    LossSignals: ("begin_sweep", "commit_sweep"),
    TaskQueue: ("refresh", "refresh_page", "sweep", "rebuild"),
    Rebuilds: ("start", "mark_enqueued"),
    PreviousVersions: ("add_digests", "clear_digests"),
    S3ObjectStore: ("get", "put", "put_if_unchanged", "list_objects", "copy_from"),
}  # fmt: skip
_NAMED_KEYS = (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY)


class WrappedProcess:
    """The process `name`, which is controlled by the files in `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name.removesuffix("-2")
        self._folder = folder
        self._passed: set[str] = set()
        self._clock = _ShiftedClock(folder / "clock")

    def install(self) -> None:
        """Put points before and after each request of this process, and record its reads."""
        time.time = self._clock
        for port, methods in WRAPPED_METHODS.items():
            for method in methods:
                setattr(port, method, self._add_points(method, getattr(port, method)))
        UserStates.begin_read = self._record_reads(UserStates.begin_read)  # type: ignore[method-assign]

    def _add_points(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def call_with_points(port: object, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            request = f"{name} {args[0]}" if args and args[0] in _NAMED_KEYS else name
            self._pass_point(f"{self._name} before {request}")
            result = call(port, *args, **options)
            self._pass_point(f"{self._name} after {request}")
            return result

        return call_with_points

    def _record_reads(self, begin_read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(begin_read)
        def begin_and_record_read(users: UserStates, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            tickets = begin_read(users, *args, **options)
            if tickets and len(args) > 1:  # without a read token, no read begins
                self._append("read", " ".join(tickets))
            return tickets

        return begin_and_record_read

    def _append(self, file: str, line: str) -> None:
        with (self._folder / file).open("a", encoding="utf-8") as out:
            out.write(line + "\n")

    def _pass_point(self, point: str) -> None:
        if point not in self._passed:
            self._passed.add(point)
            self._append("points", point)
        try:
            order = (self._folder / "order").read_text(encoding="utf-8")
            verb, _, ordered_point = order.partition(" ")
            if ordered_point != point:
                return
            (self._folder / "order").rename(self._folder / "obeyed")  # atomic: one process succeeds
        except FileNotFoundError:
            return
        if verb == "stop":
            (self._folder / "stopped").write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGSTOP if verb == "stop" else signal.SIGKILL)


class _ShiftedClock:
    """A replacement of `time.time` with an offset in seconds."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._real_time = time.time
        self._offset = 0.0
        self._next_read_at = 0.0

    def __call__(self) -> float:
        if time.monotonic() > self._next_read_at:
            self._next_read_at = time.monotonic() + 0.2
            self._offset = (
                float(self._file.read_text(encoding="utf-8")) if self._file.exists() else 0.0
            )
        return self._real_time() + self._offset


def main() -> None:
    """Run the module that the command line names."""
    name, module, *arguments = sys.argv[1:]
    prepare_to_remove(os.environ.get("FAULTS_WITHOUT", ""))
    WrappedProcess(name, Path(os.environ["FAULTS_FOLDER"])).install()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
