"""A real worker that is killed by a CSV with `KILL` in it, and hangs on one with `HANG`.

Run it with `celery -A tests.integration.poisoned_worker worker …` and the settings in the
environment. The hang is in C code and holds the GIL: only a signal can end it.
"""

import ctypes
import os
import signal
from functools import cache, cached_property

from shared.object_store import StoredObject
from shared.records import InvalidCsv, ValidCsv
from shared.settings import Settings
from worker.deadline import Deadline
from worker.refresh import Refresher, judge
from worker.tasks import create_app
from worker.wiring import READERS, Wiring

DEADLINE_S = 2.0


def deadly(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """Parse a CSV; kill or hang this process if the CSV says so."""
    if b"KILL" in stored.body:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"HANG" in stored.body:
        ctypes.PyDLL(None).sleep(1000)
    return judge(key, stored)


class PoisonedWiring(Wiring):
    """The worker's services, with the deadly parser and a short deadline."""

    @cached_property
    def refresher(self) -> Refresher:
        deadline = Deadline(DEADLINE_S)
        return Refresher(self.source, self.backlog, self.readers, READERS, deadline, deadly)


_settings = Settings.from_environment()
app = create_app(_settings, cache(lambda: PoisonedWiring(_settings)))
