"""The Celery application of beat and Flower: `celery -A worker.scheduler beat`.

Needs no MinIO.
"""

from shared import logs
from shared.settings import Settings
from worker.progress import Progress
from worker.tasks import create_scheduler

BEAT_TURN_S = 15
"""Maximum seconds between two ticks of beat; each one is a heartbeat for the health check."""

settings = Settings.from_environment(minio=False)
logs.configure(settings.log_level)
app = create_scheduler(settings)
app.conf.update(
    beat_scheduler="worker.progress:WatchedScheduler",
    beat_max_loop_interval=BEAT_TURN_S,
    progress=Progress(settings.progress_file),
)
