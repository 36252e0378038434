"""Prepare the servers: `python -m worker.init`.  Makes the buckets, has MinIO send its events to Redis, and proves it.

It adds its notification rules to those it finds and changes nothing else.  Where MinIO has no Redis target of ours it
prints the lines to set, and Rowdrop goes on with sweeps alone.  May be run as often as one likes.
"""

import io
import logging
import secrets
import sys
import time
from urllib.parse import urlsplit

from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

from shared.settings import InvalidSettings, Settings
from worker.backlog import FAST, SAFE
from worker.wiring import Wiring

logger = logging.getLogger(__name__)

EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
TARGETS = {"FAST": FAST, "SAFE": SAFE}
PROBE_PREFIX = ".rowdrop-probe-"
PROBE_WAIT_S = 10.0


def arn(target: str) -> str:
    """The name under which MinIO knows the Redis target with this id."""
    return f"arn:minio:sqs::{target}:redis"


class Init:
    """Prepares the servers of `wiring`; waits `probe_wait_s` seconds for the event that proves it."""

    def __init__(self, wiring: Wiring, probe_wait_s: float = PROBE_WAIT_S) -> None:
        self._wiring, self._settings, self._probe_wait_s = wiring, wiring.settings, probe_wait_s
        self._minio = wiring.init_client()

    def run(self) -> None:
        """Make everything ready.  Raises what an unreachable server raises."""
        for bucket in (self._settings.source_bucket, self._settings.output_bucket):
            if not self._minio.bucket_exists(bucket):
                self._minio.make_bucket(bucket, self._settings.region)
                print(f"created {bucket}", flush=True)
        events_come = self._subscribe() and self._probe()
        self._wiring.backlog.note_notifications(come=events_come)
        if not events_come:
            print(_lines_to_set(self._settings), flush=True)

    def _subscribe(self) -> bool:
        """Add the rules that are missing; False if this MinIO has no target of ours."""
        bucket = self._settings.source_bucket
        config = self._minio.get_bucket_notification(bucket)
        queues = list(config.queue_config_list or [])
        missing = [target for target in TARGETS if not any(_is_ours(queue, target) for queue in queues)]
        if missing:
            queues += [QueueConfig(EVENTS, f"rowdrop-{target.lower()}", queue=arn(target)) for target in missing]
            rules = NotificationConfig(config.cloud_func_config_list, queues, config.topic_config_list)
            try:
                self._minio.set_bucket_notification(bucket, rules)
            except S3Error as error:
                if "ARN" not in str(error):
                    raise
                return False
        return True

    def _probe(self) -> bool:
        """Put a key of our own and wait until its event is in Redis; the listener passes such keys over."""
        key = PROBE_PREFIX + secrets.token_hex(6)
        bucket = self._settings.source_bucket
        self._minio.put_object(bucket, key, io.BytesIO(b""), 0)
        try:
            until = time.monotonic() + self._probe_wait_s
            while time.monotonic() < until:
                if self._wiring.backlog.probe_came(key):
                    return True
                time.sleep(0.05)
            return False
        finally:
            self._minio.remove_object(bucket, key)


def _is_ours(queue: QueueConfig, target: str) -> bool:
    """Whether a rule sends all that happens to this target; one of somebody's for some keys alone does not."""
    unfiltered = not (queue.prefix_filter_rule or queue.suffix_filter_rule)
    return queue.queue == arn(target) and unfiltered and set(EVENTS) <= set(queue.events)


def _lines_to_set(settings: Settings) -> str:
    url = urlsplit(settings.redis_url)
    lines = [
        "MinIO does not send its events to this Redis, so that changes show only after a sweep.",
        "For rows within milliseconds start MinIO with these variables, then run `python -m worker.init` again:",
    ]
    for target, key in TARGETS.items():
        lines += [
            f"  MINIO_NOTIFY_REDIS_ENABLE_{target}=on",
            f"  MINIO_NOTIFY_REDIS_ADDRESS_{target}={url.hostname}:{url.port or 6379}",
            *([f"  MINIO_NOTIFY_REDIS_USER_{target}={url.username}"] if url.username else []),
            f"  MINIO_NOTIFY_REDIS_PASSWORD_{target}=<the password in REDIS_URL>",
            f"  MINIO_NOTIFY_REDIS_FORMAT_{target}=access",
            f"  MINIO_NOTIFY_REDIS_KEY_{target}={key}",
        ]
    lines += [
        "  MINIO_NOTIFY_REDIS_QUEUE_DIR_SAFE=<a folder of its own on MinIO's disk>",
        "  MINIO_NOTIFY_REDIS_QUEUE_LIMIT_SAFE=1000000",
        "  MINIO_SYNC_BOOT=on",
        "  MINIO_PROMETHEUS_AUTH_TYPE=public   (or give Rowdrop a MINIO_PROMETHEUS_TOKEN)",
        "  GOMAXPROCS=8   (more senders of events than cores: they starve in a burst else)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prepare the servers that the environment names; exit 1 with the reason if they cannot be."""
    try:
        wiring = Wiring.from_environment()
    except InvalidSettings as error:
        sys.exit(str(error))
    Init(wiring).run()


if __name__ == "__main__":
    main()
