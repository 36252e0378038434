"""Processes that are forked from one parent, to share the memory of what it has imported."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess

CHECK_EVERY_S = 1.0
"""Seconds between two checks whether a process has ended: one of the forked ones, or the parent.

Checked by PID. A pipe to a process may stay open after its end, because a process that was forked
later holds a copy.
"""
_FORK = multiprocessing.get_context("fork")
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class ForkedProcesses:
    """A process for each function, by name. It is started again if it ends.

    If the parent ends, all are killed. The parent must have no threads and no connections, which
    would not survive the fork.
    """

    def __init__(self, functions: Mapping[str, Callable[[], object]]) -> None:
        self._functions = functions
        self._processes: dict[str, BaseProcess] = {}
        self._is_stopping = False

    def run_until_stopped(self) -> None:
        """Run all processes until SIGTERM or SIGINT; then send them SIGTERM and wait for them."""
        for signal_number in _STOP_SIGNALS:
            signal.signal(signal_number, self._stop)
        for name in self._functions:
            self._start(name)
        while not self._is_stopping:
            time.sleep(CHECK_EVERY_S)
            for name, process in self._processes.items():
                if not process.is_alive():
                    self._start(name)
        for process in self._processes.values():
            process.join()

    def _start(self, name: str) -> None:
        # A signal waits until the process is listed, so that no process misses it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        if not self._is_stopping:
            arguments = self._functions[name], os.getpid()
            process = _FORK.Process(target=_run_child, name=name, args=arguments)
            process.start()
            self._processes[name] = process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def _stop(self, *_: object) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            for process in self._processes.values():
                process.terminate()


def _run_child(function: Callable[[], object], parent_id: int) -> None:
    for signal_number in _STOP_SIGNALS:
        signal.signal(signal_number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    arguments = (parent_id,)
    threading.Thread(target=_end_with_parent, args=arguments, name="parent", daemon=True).start()
    function()


def _end_with_parent(parent_id: int) -> None:
    """Kill this process when its parent has ended: the supervisor then starts all again."""
    while os.getppid() == parent_id:
        time.sleep(CHECK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)
