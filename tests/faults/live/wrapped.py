"""One of Rowdrop's processes, so that it can be killed, stopped or led astray at a named point.

`python -m tests.faults.live.wrapped NAME MODULE ARGUMENT…` runs MODULE as `python -m` does.  Between it and its ports
(the to-do list in Redis, the queue of messages, the buckets) lies what is here; the module itself is as it is.

A point is "NAME before REQUEST" or "NAME after REQUEST".  The folder `$FAULTS_FOLDER` is how a test speaks to it:
`order` holds "kill POINT" or "stop POINT", obeyed by the first process that comes there and once; `points` lists those
that were passed; `clock` holds seconds that are added to the time of day; `read` tells who was read, a line a reading.
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

from shared.object_store import S3ObjectStore
from shared.published import BUNDLES, MANIFEST, OUTPUT, REJECTS
from shared.rebuilds import Rebuilds
from shared.task_queue import TaskQueue
from shared.unpacks import Unpacks
from tests.faults.live.removed import prepare_to_remove
from worker.backlog import Backlog

PORTS: dict[type, tuple[str, ...]] = {
    Backlog: (
        "peek", "note_events", "mark", "note", "stage", "begin", "clean", "wake_publisher", "add_page", "take_page",
        "begin_sweep", "commit_sweep", "claim",
    ),
    TaskQueue: ("refresh", "refresh_page", "sweep", "rebuild"),
    Rebuilds: ("start", "set_named"),
    Unpacks: ("note_old", "forget_old"),
    S3ObjectStore: ("get", "put", "replace", "objects", "copy_from"),
}  # fmt: skip
_NAMED = (OUTPUT, REJECTS, MANIFEST, BUNDLES)


class Wrapped:
    """The process `name`, which looks into `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name.removesuffix("-2"), folder
        self._passed: set[str] = set()
        self._clock = _Clock(folder / "clock")

    def install(self) -> None:
        """Put points before and after each request of this process, and count readings."""
        time.time = self._clock
        for port, methods in PORTS.items():
            for method in methods:
                setattr(port, method, self._with_points(method, getattr(port, method)))
        Backlog.note = self._counted(Backlog.note)  # type: ignore[method-assign]

    def _with_points(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(port: object, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            request = f"{name} {args[0]}" if args and args[0] in _NAMED else name
            self._at(f"{self._name} before {request}")
            answer = call(port, *args, **options)
            self._at(f"{self._name} after {request}")
            return answer

        return called

    def _counted(self, note: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(note)
        def noted(backlog: Backlog, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            notes = note(backlog, *args, **options)
            if notes and len(args) > 1:  # else nobody is read
                self._append("read", " ".join(notes))
            return notes

        return noted

    def _append(self, file: str, line: str) -> None:
        with (self._folder / file).open("a", encoding="utf-8") as out:
            out.write(line + "\n")

    def _at(self, point: str) -> None:
        if point not in self._passed:
            self._passed.add(point)
            self._append("points", point)
        try:
            verb, _, wanted = (self._folder / "order").read_text(encoding="utf-8").partition(" ")
            if wanted != point:
                return
            (self._folder / "order").rename(self._folder / "obeyed")  # of several processes one succeeds
        except FileNotFoundError:
            return
        if verb == "stop":
            (self._folder / "stopped").write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGSTOP if verb == "stop" else signal.SIGKILL)


class _Clock:
    """`time.time`, some seconds off."""

    def __init__(self, file: Path) -> None:
        self._file, self._now, self._offset, self._look_at = file, time.time, 0.0, 0.0

    def __call__(self) -> float:
        if time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + 0.2
            self._offset = float(self._file.read_text(encoding="utf-8")) if self._file.exists() else 0.0
        return self._now() + self._offset


def main() -> None:
    """Run the module that the command line names."""
    name, module, *arguments = sys.argv[1:]
    prepare_to_remove(os.environ.get("FAULTS_WITHOUT", ""))
    Wrapped(name, Path(os.environ["FAULTS_FOLDER"])).install()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
