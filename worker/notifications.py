"""MinIO's rules for the source bucket: it sends our two Redis targets whatever happens to an object."""

from enum import Enum

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

from worker.backlog import FAST, SAFE

EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
TARGETS = {"FAST": FAST, "SAFE": SAFE}


class Rules(Enum):
    """What was found: they are `THERE`, they were `MISSING` and have been added, this MinIO has `NO_TARGET` of ours."""

    THERE = 1
    MISSING = 2
    NO_TARGET = 3


def arn(target: str) -> str:
    """The name under which MinIO knows the Redis target with this id."""
    return f"arn:minio:sqs::{target}:redis"


class Notifications:
    """The rules of one bucket."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self._minio, self._bucket = minio, bucket

    def mend(self) -> Rules:
        """Add those of ours that are missing, and change nothing else.

        Raises `minio.error.MinioException`, `urllib3.exceptions.HTTPError`.
        """
        config = self._minio.get_bucket_notification(self._bucket)
        queues = list(config.queue_config_list or [])
        missing = [target for target in TARGETS if not any(_is_ours(queue, target) for queue in queues)]
        if not missing:
            return Rules.THERE
        # MinIO replaces all rules at once.
        queues += [QueueConfig(EVENTS, f"rowdrop-{target.lower()}", queue=arn(target)) for target in missing]
        rules = NotificationConfig(config.cloud_func_config_list, queues, config.topic_config_list)
        try:
            self._minio.set_bucket_notification(self._bucket, rules)
        except S3Error as error:
            if "ARN" not in str(error):
                raise
            return Rules.NO_TARGET
        return Rules.MISSING


def _is_ours(queue: QueueConfig, target: str) -> bool:
    """Whether a rule sends all that happens to this target; one of somebody's for some keys alone does not."""
    unfiltered = not (queue.prefix_filter_rule or queue.suffix_filter_rule)
    return queue.queue == arn(target) and unfiltered and set(EVENTS) <= set(queue.events)
