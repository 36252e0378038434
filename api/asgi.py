"""Build the ASGI application from the environment, and do nothing else.

gunicorn imports this module: `gunicorn api.asgi:app -c api/gunicorn_conf.py`.  The import is safe
before the fork: no connection is open and no thread runs until a worker calls `follower.start()`.
"""

import logging
import time

import minio  # noqa: F401  before the fork, so that the processes share its memory
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.answers.table_answers import repeat_answers
from api.app import Dependencies, create_app
from api.controllers.completion_waiter import CompletionWaiter
from api.controllers.event_controller import EventController
from api.controllers.rebuild_controller import RebuildController
from api.controllers.refresh_controller import RefreshController
from api.snapshot.follower import Follower, FollowerConnections
from api.snapshot.process_registry import ProcessRegistry
from api.web.connections import Connections
from api.web.thread_pool import (
    COMPUTE_THREADS,
    COMPUTE_WAIT_S,
    REDIS_THREADS,
    SERVER_WAIT_S,
    STORE_THREADS,
    ThreadPool,
)
from api.web.transfers import Transfers
from shared import logs
from shared.arrow import avoid_pandas
from shared.progress.rebuilds import Rebuilds, RefreshRequests
from shared.progress.receipts import Receipts
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import Unpacks
from shared.s3.files import open_file_store
from shared.s3.objects import open_store
from shared.settings import Settings
from shared.task_queue import TaskQueue, create_celery

REDIS_TIMEOUT_S = 1.5
"""Timeout of each connection attempt and each command, in seconds."""
MAX_WAITING_REQUESTS = 20
"""Requests that may wait concurrently for a result, per process."""


def _create_redis_client(url: str) -> "Redis":
    # No retries: a client must get its 503 within five seconds, and the follower polls again.
    return Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


avoid_pandas()
settings = Settings.from_environment()
logs.configure_logging(settings.log_level)
redis_client = _create_redis_client(settings.redis_url)
# A function, because the follower connects after the fork.
follower = Follower(
    lambda: FollowerConnections(
        open_store(settings, settings.output_bucket), _create_redis_client(settings.redis_url)
    )
)
task_queue = TaskQueue(create_celery(settings.redis_url, REDIS_TIMEOUT_S))
compute_pool = ThreadPool("computation", COMPUTE_THREADS, COMPUTE_WAIT_S)
redis_pool = ThreadPool("Redis", REDIS_THREADS, SERVER_WAIT_S)
store_pool = ThreadPool("object store", STORE_THREADS, SERVER_WAIT_S)
connections = Connections()
waiter = CompletionWaiter(ProcessRegistry(redis_client), MAX_WAITING_REQUESTS, redis_pool)
rebuilds = Rebuilds(redis_client)
dependencies = Dependencies(
    get_view=lambda: follower.view,
    rebuild_controller=RebuildController(
        rebuilds, task_queue.rebuild, waiter, time.time, redis_pool
    ),
    refresh_controller=RefreshController(
        RefreshRequests(redis_client), task_queue.refresh_requested, waiter, redis_pool
    ),
    event_controller=EventController(
        redis_client, settings.source_bucket, compute_pool, redis_pool
    ),
    waiter=waiter,
    source_transfers=Transfers(
        settings.source_bucket,
        lambda: open_file_store(settings, settings.source_bucket),
        store_pool,
    ),
    copy_transfers=Transfers(
        settings.output_bucket,
        lambda: open_file_store(settings, settings.output_bucket),
        store_pool,
    ),
    rebuilds=rebuilds,
    unpacks=Unpacks(redis_client),
    sweeps=SweepRecord(redis_client),
    receipts=Receipts(redis_client),
    compute_pool=compute_pool,
    redis_pool=redis_pool,
    max_upload_bytes=settings.max_upload_mb * 1_000_000,
    sweep_interval_s=settings.sweep_interval_s,
    page_links=settings.page_links,
    is_stopping=lambda: connections.is_stopping,
)
rules = AccessRules.from_settings(settings)
for warning in rules.list_warnings():
    logging.getLogger(__name__).warning("%s", warning)
cross_site = CrossSiteMiddleware(settings.allowed_hosts, settings.cors_origins)
falcon_app = create_app(dependencies, cross_site, AuthMiddleware(rules))
app = repeat_answers(falcon_app, connections.limit_app, dependencies.get_view, time.time)
