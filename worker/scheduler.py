"""The Celery application of beat and of Flower, which need no MinIO: `celery -A worker.scheduler beat`."""

from shared import logs
from shared.settings import Settings
from worker.progress import Progress
from worker.tasks import create_scheduler

BEAT_TURN_S = 15
"""Beat looks at its schedule at least so often, which is its sign of progress."""

settings = Settings.from_environment(minio=False)
logs.configure(settings.log_level)
app = create_scheduler(settings)
app.conf.update(
    beat_scheduler="worker.progress:WatchedScheduler",
    beat_max_loop_interval=BEAT_TURN_S,
    progress=Progress(settings.progress_file),
)
