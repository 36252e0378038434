"""The Celery application of the workers and of beat: `celery -A worker.app worker -Q events`."""

from functools import cache

from shared import logs
from shared.settings import Settings
from worker.deadline import Deadline
from worker.progress import Progress
from worker.tasks import create_app
from worker.wiring import Wiring

BEAT_TURN_S = 15
"""Beat looks at its schedule at least so often, which is its sign of progress."""

settings = Settings.from_environment()
logs.configure(settings.log_level)
progress = Progress(settings.progress_file)
progress.made_by_heartbeats()
app = create_app(settings, cache(lambda: Wiring(settings, Deadline())))
app.conf.update(
    beat_scheduler="worker.progress:WatchedScheduler", beat_max_loop_interval=BEAT_TURN_S, progress=progress
)
