"""A real worker that is killed by a CSV with `KILL` in it, and hangs on one with `HANG`.

Run it with `celery -A tests.integration.poisoned_worker worker …` and the settings in the
environment. The hang is in C code and holds the GIL: only a signal can end it.
"""

import ctypes
import os
import signal
from functools import cache

from shared.formats.records import InvalidCsv, ValidCsv
from shared.object_store import StoredObject
from shared.settings import Settings
from worker.reading.csv_parsing import parse_csv
from worker.reading.deadline import Deadline
from worker.services.clients import ServerClients
from worker.services.container import Services
from worker.tasks import create_app

READ_DEADLINE_S = 2.0


def parse_or_crash(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """Parse a CSV; kill or hang this process if the CSV says so."""
    if b"KILL" in stored.body:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"HANG" in stored.body:
        ctypes.PyDLL(None).sleep(1000)
    return parse_csv(key, stored)


def create_poisoned_services() -> Services:
    """Create the worker's services, with the deadly parser and a short deadline."""
    return Services(ServerClients(_settings), Deadline(READ_DEADLINE_S), parse_or_crash)


_settings = Settings.from_environment()
app = create_app(_settings, cache(create_poisoned_services))
