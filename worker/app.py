"""The Celery application of the workers: `celery -A worker.app worker -Q events`."""

from functools import cache

from shared import logs
from shared.settings import Settings
from worker.deadline import Deadline
from worker.progress import Progress
from worker.tasks import create_app
from worker.wiring import Wiring

settings = Settings.from_environment()
logs.configure(settings.log_level)
Progress(settings.progress_file).made_by_heartbeats()
app = create_app(settings, cache(lambda: Wiring(settings, Deadline())))
