"""Compute up to which moment the served snapshot is known to match the source bucket. Pure.

`consistent_as_of` is the latest moment for which all earlier drops are known to be in the snapshot
that this process serves. A drop writes, overwrites or deletes a file. None: no such moment is
known.

It becomes None if one of these conditions fails:

- No loss is known: the trust state is present, and a sweep has completed for every loss signal.
- No user that a sweep found out of sync is unpublished. It is not known since when such a user has
  been out of sync.

It keeps its value while one of these conditions fails:

- The served snapshot is the version that was published last (same ETag).
- `MARGIN_S` have passed since the last outage of Redis.
- No bundle waits to be unpacked, and no user of a bundle is unpublished. These users are marked
  long after the bundle was dropped. So the times of their marks say nothing about the drop.

If all conditions hold, the snapshot contains every drop that the listener has processed, except
those of dirty users. So `consistent_as_of` is the earlier of two moments:

- `MARGIN_S` before the last poll at which no event waited in Redis,
- `MARGIN_S` before the oldest mark among the users that are dirty because of an event.

Sometimes losses cannot be detected: no events arrive, MinIO's metrics are missing, or MinIO cannot
deliver its queued events. Then only a sweep proves consistency, and its start replaces the first
moment. The same is true after a sweep that found silent changes, which have no event, because more
of them are to be expected. Then its start replaces a later value, too, because that was wrong.
"""

from shared.progress.pipeline_status import PipelineStatus

MARGIN_S = 30.0
"""Upper bound of the delay, in seconds, after which an event has arrived or its loss is detected.

An event arrives immediately, or after 3 s if MinIO queued it on its disk. The watchdog checks every
15 s, with metrics that may be 10 s old.
"""


class ConsistencyTracker:
    """Holder of `as_of`, the value of `consistent_as_of` in Unix seconds.

    All times must come from the same clock.
    """

    def __init__(self) -> None:
        self.as_of: float | None = None
        self._inbox_empty_at: float | None = None
        self._redis_was_unavailable = False
        self._trusted_from = 0.0
        self._had_silent_changes = False

    def record_redis_outage(self) -> None:
        """Record that Redis did not answer.

        MinIO may not have reached Redis either, so its events may arrive late. Until `MARGIN_S`
        after the recovery an empty queue proves nothing.
        """
        self._redis_was_unavailable = True

    def update(
        self, pipeline_status: PipelineStatus, served_etag: str | None, requested_at: float
    ) -> None:
        """Update `as_of` from figures that were read from Redis at `requested_at` or later.

        `served_etag` is the ETag of the table that this process served at that time, None without
        a table.
        """
        if self._redis_was_unavailable:
            # The first answer after an outage: discard what earlier polls proved.
            self._redis_was_unavailable = False
            self._trusted_from = requested_at + MARGIN_S
            self._inbox_empty_at = None
        if not pipeline_status.waiting_events:
            self._inbox_empty_at = requested_at
        has_silent_changes = pipeline_status.silent_countdown > 0
        if has_silent_changes and not self._had_silent_changes:
            self.as_of = None
        self._had_silent_changes = has_silent_changes
        if not pipeline_status.no_known_loss or pipeline_status.dirty_counts["sweep"]:
            self.as_of = None
        elif pipeline_status.dirty_counts["bundle"] or pipeline_status.dirty_counts["unpack"]:
            return  # keep the value: the time of the drop is unknown
        elif pipeline_status.published_etag == served_etag and requested_at >= self._trusted_from:
            moment = self._compute_moment(pipeline_status)
            # Never decreases, because earlier proofs stay valid.
            if moment is not None:
                self.as_of = max(moment, self.as_of or moment)

    def _compute_moment(self, pipeline_status: PipelineStatus) -> float | None:
        moment = pipeline_status.last_sweep_at
        if pipeline_status.announces_all_changes:
            inbox_empty_at = self._inbox_empty_at
            moment = None if inbox_empty_at is None else inbox_empty_at - MARGIN_S
        if moment is None or pipeline_status.oldest_event_mark_at is None:
            return moment
        return min(moment, pipeline_status.oldest_event_mark_at - MARGIN_S)
