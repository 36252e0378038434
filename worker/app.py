"""The Celery application of the workers and of beat: `celery -A worker.app worker -Q events`."""

from celery import Celery

from shared import logs
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, SWEEP, create_celery
from worker.progress import Progress

BEAT_TURN_S = 15
"""Beat looks at its schedule at least so often, which is its sign of progress."""


def create_app(settings: Settings, progress: Progress) -> Celery:
    """The application with its tasks and its one schedule: the sweep that needs no evidence."""
    celery = create_celery(settings.redis_url)
    celery.conf.imports = ("worker.tasks",)
    celery.conf.beat_scheduler = "worker.progress:WatchedScheduler"
    celery.conf.beat_max_loop_interval = BEAT_TURN_S
    celery.conf.progress = progress
    celery.conf.beat_schedule = {
        "sweep": {
            "task": SWEEP,
            "schedule": float(settings.sweep_interval_s),
            "args": ("schedule",),
            "options": {"queue": BULK_QUEUE, "expires": settings.sweep_interval_s},
        }
    }
    return celery


_settings = Settings.from_environment()
logs.configure(_settings.log_level)
progress = Progress(_settings.progress_file)
progress.made_by_heartbeats()
app = create_app(_settings, progress)
