"""MinIO's notification rules for the source bucket: send all writes and deletes to two Redis lists.

One target sends events directly, the other stores them on MinIO's disk first.
"""

from enum import Enum

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

from worker.backlog import FAST, SAFE

EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
TARGETS = {"FAST": FAST, "SAFE": SAFE}


class Rules(Enum):
    """State of the rules.

    `THERE`: all rules exist. `MISSING`: rules were missing and have been added. `NO_TARGET`: this
    MinIO is not configured with Rowdrop's Redis targets.
    """

    THERE = 1
    MISSING = 2
    NO_TARGET = 3


def arn(target: str) -> str:
    """Return MinIO's ARN of the Redis target with this ID."""
    return f"arn:minio:sqs::{target}:redis"


class Notifications:
    """The notification rules of one bucket."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self._minio, self._bucket = minio, bucket

    def mend(self) -> Rules:
        """Add Rowdrop's rules that are missing, and keep all other rules.

        Raises `minio.error.MinioException` or `urllib3.exceptions.HTTPError`.
        """
        config = self._minio.get_bucket_notification(self._bucket)
        queues = list(config.queue_config_list or [])
        missing = [target for target in TARGETS if not any(_is_ours(queue, target) for queue in queues)]
        if not missing:
            return Rules.THERE
        # The request replaces all rules of the bucket, so the existing ones are sent again.
        queues += [QueueConfig(EVENTS, f"rowdrop-{target.lower()}", queue=arn(target)) for target in missing]
        rules = NotificationConfig(config.cloud_func_config_list, queues, config.topic_config_list)
        try:
            self._minio.set_bucket_notification(self._bucket, rules)
        except S3Error as error:
            # The error code of an unknown target is not specific to it. Only its message is.
            if "ARN" not in str(error):
                raise
            return Rules.NO_TARGET
        return Rules.MISSING


def _is_ours(queue: QueueConfig, target: str) -> bool:
    """Return whether a rule sends all events to this target.

    A rule with a prefix or suffix filter does not: it is another application's.
    """
    unfiltered = not (queue.prefix_filter_rule or queue.suffix_filter_rule)
    return queue.queue == arn(target) and unfiltered and set(EVENTS) <= set(queue.events)
