"""MinIO's notification rules for the source bucket: send all writes and deletes to two Redis lists.

One target sends events directly, the other stores them on MinIO's disk first.
"""

from enum import Enum

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

from shared.redis_keys import FAST_EVENTS, SAFE_EVENTS

EVENT_TYPES = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
EVENT_LISTS = {"FAST": FAST_EVENTS, "SAFE": SAFE_EVENTS}


class RuleState(Enum):
    """State of the rules.

    `PRESENT`: all rules exist. `RESTORED`: rules were missing and have been added. `UNSUPPORTED`:
    this MinIO is not configured with Rowdrop's Redis targets.
    """

    PRESENT = 1
    RESTORED = 2
    UNSUPPORTED = 3


def target_arn(target_id: str) -> str:
    """Return MinIO's ARN of the Redis target with this ID."""
    return f"arn:minio:sqs::{target_id}:redis"


class NotificationRules:
    """The notification rules of one bucket."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self._minio = minio
        self._bucket = bucket

    def ensure_rules(self) -> RuleState:
        """Add Rowdrop's rules that are missing, and keep all other rules.

        Raises `minio.error.MinioException` or `urllib3.exceptions.HTTPError`.
        """
        config = self._minio.get_bucket_notification(self._bucket)
        queues = list(config.queue_config_list or [])
        missing_ids = [
            target
            for target in EVENT_LISTS
            if not any(_covers_target(queue, target) for queue in queues)
        ]
        if not missing_ids:
            return RuleState.PRESENT
        # The request replaces all rules of the bucket, so the existing ones are sent again.
        queues += [
            QueueConfig(EVENT_TYPES, f"rowdrop-{target.lower()}", queue=target_arn(target))
            for target in missing_ids
        ]
        rules = NotificationConfig(config.cloud_func_config_list, queues, config.topic_config_list)
        try:
            self._minio.set_bucket_notification(self._bucket, rules)
        except S3Error as error:
            # The error code of an unknown target is not specific to it. Only its message is.
            if "ARN" not in str(error):
                raise
            return RuleState.UNSUPPORTED
        return RuleState.RESTORED


def _covers_target(queue: QueueConfig, target_id: str) -> bool:
    """Return whether a rule sends all events to this target.

    A rule with a prefix or suffix filter does not: it is another application's.
    """
    unfiltered = not (queue.prefix_filter_rule or queue.suffix_filter_rule)
    return (
        queue.queue == target_arn(target_id)
        and unfiltered
        and set(EVENT_TYPES) <= set(queue.events)
    )
