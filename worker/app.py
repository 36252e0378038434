"""The Celery application of the workers: `celery -A worker.app worker -Q events` (or `bulk`)."""

from functools import cache

from shared import logs
from shared.settings import Settings
from worker.heartbeat import Heartbeat
from worker.reading.deadline import Deadline
from worker.services.clients import ServerClients
from worker.services.container import Services
from worker.tasks import create_app

settings = Settings.from_environment()
logs.configure_logging(settings.log_level)
Heartbeat(settings.progress_file).follow_celery()
# `cache`: one set of parts per process, created on first use, after the fork of a prefork pool.
app = create_app(settings, cache(lambda: Services(ServerClients(settings), Deadline())))
