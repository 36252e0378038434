"""The Celery application of beat and Flower: `celery -A worker.scheduler beat`.

Needs no MinIO.
"""

from shared import logs
from shared.settings import Settings
from worker.heartbeat import Heartbeat
from worker.tasks import create_scheduler

MAX_BEAT_INTERVAL_S = 15
"""Maximum seconds between two ticks of beat; each one is a heartbeat for the health check."""

settings = Settings.from_environment(minio=False)
logs.configure_logging(settings.log_level)
app = create_scheduler(settings)
app.conf.update(
    beat_scheduler="worker.heartbeat:HeartbeatScheduler",
    beat_max_loop_interval=MAX_BEAT_INTERVAL_S,
    progress=Heartbeat(settings.progress_file),
)
