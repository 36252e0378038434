"""Compute up to which moment the served snapshot is known to match the source bucket. Pure.

`consistent_as_of` is the latest moment for which all earlier drops are known to be in the snapshot
that this process serves. A drop writes, overwrites or deletes a file. None: no such moment is
known.

It becomes None if one of these conditions fails:

- No loss is known: the trust state (`epoch`) is present, and a sweep has completed for every loss
  signal (`evidence`).
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
moment.
"""

from api.figures import Figures

MARGIN_S = 30.0
"""Upper bound of the delay, in seconds, after which an event has arrived or its loss is detected.

An event arrives immediately, or after 3 s if MinIO queued it on its disk. The watchdog checks every
15 s, with metrics that may be 10 s old.
"""


class Consistency:
    """Holder of `as_of`, the value of `consistent_as_of` in Unix seconds.

    All times must come from the same clock.
    """

    def __init__(self) -> None:
        self.as_of: float | None = None
        self._drained: float | None = None
        self._silent = False
        self._sure_from = 0.0

    def redis_is_away(self) -> None:
        """Record that Redis did not answer.

        MinIO may not have reached Redis either, so its events may arrive late. Until `MARGIN_S`
        after the recovery an empty queue proves nothing.
        """
        self._silent = True

    def update(self, figures: Figures, served_etag: str | None, asked_at: float) -> None:
        """Update `as_of` from figures that were read from Redis at `asked_at` or later.

        `served_etag` is the ETag of the table that this process served at that time, None without
        a table.
        """
        if self._silent:
            # The first answer after an outage: discard what earlier polls proved.
            self._silent, self._sure_from, self._drained = False, asked_at + MARGIN_S, None
        if not figures.waiting:
            self._drained = asked_at
        if not figures.sound or figures.dirty["sweep"]:
            self.as_of = None
        elif figures.dirty["bundle"] or figures.dirty["unpack"]:
            return  # keep the value: the time of the drop is unknown
        elif figures.published_etag == served_etag and asked_at >= self._sure_from:
            known = self._known(figures)
            if known is not None:
                self.as_of = max(known, self.as_of or known)  # monotonic: earlier proofs stay valid

    def _known(self, figures: Figures) -> float | None:
        sees = figures.notified and figures.sees_losses and not figures.stuck_copies
        noted = None if self._drained is None else self._drained - MARGIN_S
        known = noted if sees else figures.sweep_at
        if known is None or figures.oldest_event is None:
            return known
        return min(known, figures.oldest_event - MARGIN_S)
