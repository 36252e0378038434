"""How far what is served is known to be consistent with the bucket.  Pure.

`consistent_as_of` is the latest moment of which this is known: whatever was dropped, overwritten or deleted up to then
is in the table that this process serves.  None: that is not known of any moment.  It holds if

- nothing is known to be lost: there is an epoch, and no evidence that a sweep has not looked into to its end;
- nobody whom a sweep found to differ is still unpublished, as nobody knows since when they differ;
- the table is the one that was published last, by its ETag;
- no bundle is being unpacked, and nobody in one is unpublished: they are marked long after the bundle was dropped, so
  their marks do not tell how far back it holds.  Meanwhile it stays where it is.

Then everything is in it whose event had been noted, but for the users who are dirty.  So it is the earliest of

- `MARGIN_S` before the last look at which no event waited in Redis to be noted,
- `MARGIN_S` before the moment when the oldest of the users was marked who are dirty by an event.

Where losses cannot be seen (no events, or no figures of MinIO) only a sweep knows; then the first of the two is the
moment at which the last one began its LIST.
"""

from api.figures import Figures

MARGIN_S = 30.0
"""In this time an event comes (at once, or by way of MinIO's disk after 3 s), and a loss is noticed (the watch looks
every 15 s at figures that may be 10 s old)."""


class Consistency:
    """Keeps `as_of` up to date, in Unix seconds.  Times are those of one clock."""

    def __init__(self) -> None:
        self.as_of: float | None = None
        self._drained: float | None = None
        self._silent = False
        self._sure_from = 0.0

    def redis_is_away(self) -> None:
        """Redis did not answer: MinIO may not have reached it either, and what it could not say comes late."""
        self._silent = True

    def update(self, figures: Figures, served_etag: str | None, asked_at: float) -> None:
        """Take in what Redis told, at `asked_at` or later; the table with `served_etag` was served by then."""
        if self._silent:
            self._silent, self._sure_from, self._drained = False, asked_at + MARGIN_S, None
        if not figures.waiting:
            self._drained = asked_at
        if not figures.sound or figures.dirty["sweep"]:
            self.as_of = None
        elif figures.dirty["bundle"] or figures.dirty["unpack"]:
            return
        elif figures.published_etag == served_etag and asked_at >= self._sure_from:
            known = self._known(figures)
            if known is not None:
                self.as_of = max(known, self.as_of or known)  # what was known once stays so

    def _known(self, figures: Figures) -> float | None:
        sees = figures.notified and figures.sees_losses and not figures.stuck_copies
        noted = None if self._drained is None else self._drained - MARGIN_S
        known = noted if sees else figures.sweep_at
        if known is None or figures.oldest_event is None:
            return known
        return min(known, figures.oldest_event - MARGIN_S)
