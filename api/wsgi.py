"""Build the WSGI application from the environment, and do nothing else.

gunicorn imports this module: `gunicorn api.wsgi:app -c api/gunicorn_conf.py`.  The import is safe
before the fork: no connection is open and no thread runs until a worker calls `follower.start()`.
"""

import logging
import time

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.access import AccessRules
from api.app import Parts, create_app
from api.browsers import BrowserGuard
from api.follower import Connections, Follower
from api.guard import AccessGuard
from api.presence import Presence
from api.refreshes import RefreshDesk
from api.tasks import RebuildDesk
from api.transfers import Transfers
from api.waiting import Waiting
from shared import logs
from shared.object_store import open_store
from shared.rebuilds import Rebuilds
from shared.requests import Requests
from shared.settings import Settings
from shared.task_queue import TaskQueue, create_celery
from shared.unpacks import Unpacks

REDIS_TIMEOUT_S = 1.5
MOST_WAITING = 2
"""Requests that may wait concurrently for a rebuild or a refresh, per process."""


def _redis(url: str) -> "Redis":
    # No retries: a client must get its 503 within five seconds, and the follower polls again.
    return Redis.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


settings = Settings.from_environment()
logs.configure(settings.log_level)
client = _redis(settings.redis_url)
follower = Follower(lambda: Connections(open_store(settings, settings.output_bucket), _redis(settings.redis_url)))
queue = TaskQueue(create_celery(settings.redis_url, REDIS_TIMEOUT_S))
waiting = Waiting(Presence(client), MOST_WAITING)
parts = Parts(
    current=lambda: follower.view,
    rebuilds=RebuildDesk(Rebuilds(client), queue.rebuild, waiting, time.time),
    refreshes=RefreshDesk(Requests(client), queue.refresh_asked, waiting),
    transfers=Transfers(settings.source_bucket, lambda: open_store(settings, settings.source_bucket)),
    copies=Transfers(settings.output_bucket, lambda: open_store(settings, settings.output_bucket)),
    unpacks=Unpacks(client),
    max_upload_bytes=settings.max_upload_mb * 1_000_000,
    sweep_interval_s=settings.sweep_interval_s,
)
rules = AccessRules.from_settings(settings)
for warning in rules.warnings():
    logging.getLogger(__name__).warning("%s", warning)
browsers = BrowserGuard(settings.allowed_hosts, settings.cors_origins)
app = create_app(parts, browsers, AccessGuard(rules))
