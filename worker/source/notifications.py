"""MinIO's notification rule for the source bucket: send all writes and deletes to a Redis list."""

from enum import Enum

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

EVENT_TYPES = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
EVENT_TARGET = "FAST"
"""ID of the Redis target that sends to `shared.redis_keys.FAST_EVENTS`."""
EVENT_TARGET_ARN = f"arn:minio:sqs::{EVENT_TARGET}:redis"
RULE_ID = "rowdrop-fast"
RULE_ID_OF_VERSION_1 = "rowdrop-safe"
"""The rule of release 0.2 for a second target, of which MinIO keeps a queue on its disk."""


class RuleState(Enum):
    """State of the rule.

    `PRESENT`: it exists. `RESTORED`: it was missing and has been added. `UNSUPPORTED`: this MinIO
    is not configured with Rowdrop's Redis target.
    """

    PRESENT = 1
    RESTORED = 2
    UNSUPPORTED = 3


class NotificationRules:
    """The notification rules of one bucket."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self._minio = minio
        self._bucket = bucket

    def ensure_rules(self) -> RuleState:
        """Add Rowdrop's rule if it is missing, and keep the rules of other applications.

        Removes the rule of release 0.2 for a second target. Raises `minio.error.MinioException`
        or `urllib3.exceptions.HTTPError`.
        """
        config = self._minio.get_bucket_notification(self._bucket)
        queues = list(config.queue_config_list or [])
        kept = [queue for queue in queues if queue.config_id != RULE_ID_OF_VERSION_1]
        is_present = any(map(_sends_all_events, kept))
        if is_present and len(kept) == len(queues):
            return RuleState.PRESENT
        # The request replaces all rules of the bucket, so the existing ones are sent again.
        if not is_present:
            kept.append(QueueConfig(EVENT_TYPES, RULE_ID, queue=EVENT_TARGET_ARN))
        rules = NotificationConfig(config.cloud_func_config_list, kept, config.topic_config_list)
        try:
            self._minio.set_bucket_notification(self._bucket, rules)
        except S3Error as error:
            # The error code of an unknown target is not specific to it. Only its message is.
            if "ARN" not in str(error):
                raise
            return RuleState.UNSUPPORTED
        return RuleState.PRESENT if is_present else RuleState.RESTORED


def _sends_all_events(queue: QueueConfig) -> bool:
    """Return whether a rule sends all events to Rowdrop's target.

    A rule with a prefix or suffix filter does not: it is another application's.
    """
    unfiltered = not (queue.prefix_filter_rule or queue.suffix_filter_rule)
    return queue.queue == EVENT_TARGET_ARN and unfiltered and set(EVENT_TYPES) <= set(queue.events)
