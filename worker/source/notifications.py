"""MinIO's notification rule for the source bucket: send all writes and deletes to a Redis list."""

from enum import Enum

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import CommonConfig, NotificationConfig, QueueConfig

from shared.formats.events import EVENT_TARGET

EVENT_TYPES = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
EVENT_TARGET_ARN = f"arn:minio:sqs::{EVENT_TARGET}:redis"
RULE_ID = "rowdrop-fast"
RULE_ID_OF_0_3 = "rowdrop-safe"
"""The rule of release 0.3 for a second target, of which MinIO keeps a queue on its disk."""


class RuleState(Enum):
    """State of the rule.

    `PRESENT`: it exists. `RESTORED`: it was missing and has been added. `OTHER_TARGET`: this server
    has no Redis target for Rowdrop, but a rule sends all events to another target, which may be a
    webhook to `POST /events`. `UNSUPPORTED`: neither of them.
    """

    PRESENT = 1
    RESTORED = 2
    OTHER_TARGET = 3
    UNSUPPORTED = 4


class NotificationRules:
    """The notification rules of one bucket."""

    def __init__(self, minio: Minio, bucket: str) -> None:
        self._minio = minio
        self._bucket = bucket
        self._lacks_target = False

    def ensure_rules(self) -> RuleState:
        """Add Rowdrop's rule if it is missing, and keep the rules of other applications.

        Removes the rule of release 0.3 for a second target. Raises `minio.error.MinioException`
        or `urllib3.exceptions.HTTPError`.
        """
        config = self._minio.get_bucket_notification(self._bucket)
        queues = list(config.queue_config_list or [])
        kept = [queue for queue in queues if queue.config_id != RULE_ID_OF_0_3]
        is_present = any(map(_is_rowdrop_rule, kept))
        if is_present and len(kept) == len(queues):
            return RuleState.PRESENT
        foreign: list[CommonConfig] = [
            *(config.topic_config_list or []),
            *(config.cloud_func_config_list or []),
        ]
        has_other_target = any(map(_sends_all_events, [*kept, *foreign]))
        without_rule = RuleState.OTHER_TARGET if has_other_target else RuleState.UNSUPPORTED
        # MinIO has rules for queues only. On another server the request would replace rules that
        # minio-py does not know completely. A request that fails is not repeated at each tick.
        if foreign or (has_other_target and self._lacks_target):
            return without_rule
        if not is_present:
            kept.append(QueueConfig(EVENT_TYPES, RULE_ID, queue=EVENT_TARGET_ARN))
        if not self._replace_rules(kept):
            self._lacks_target = True
            return without_rule
        return RuleState.PRESENT if is_present else RuleState.RESTORED

    def _replace_rules(self, queues: list[QueueConfig]) -> bool:
        """Replace all rules of the bucket; return False if the server does not know the target."""
        try:
            self._minio.set_bucket_notification(
                self._bucket, NotificationConfig(queue_config_list=queues)
            )
        except S3Error as error:
            # The error code of an unknown target is not specific to it. Only its message is.
            if "ARN" not in str(error):
                raise
            return False
        # Ceph accepts rules for queues and forgets them.
        config = self._minio.get_bucket_notification(self._bucket)
        return any(map(_is_rowdrop_rule, config.queue_config_list or []))


def _is_rowdrop_rule(queue: QueueConfig) -> bool:
    """Return whether a rule sends all events to Rowdrop's target.

    A rule with a prefix or suffix filter does not: it is another application's.
    """
    # MinIO inserts its region: arn:minio:sqs:eu-central-1:FAST:redis.
    parts = (queue.queue or "").split(":")
    is_target = [*parts[:3], "", *parts[4:]] == EVENT_TARGET_ARN.split(":")
    return is_target and _sends_all_events(queue)


def _sends_all_events(rule: CommonConfig) -> bool:
    unfiltered = not (rule.prefix_filter_rule or rule.suffix_filter_rule)
    return unfiltered and set(EVENT_TYPES) <= set(rule.events)
