"""Times and counts as text, in JSON and in messages. Pure."""

from datetime import UTC, datetime


def format_time(seconds: float | None) -> str | None:
    """Format Unix seconds as ISO 8601 in UTC: `2026-01-31T12:00:00Z`, with any milliseconds.

    None stays None.
    """
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    precision = "milliseconds" if moment.microsecond >= 1000 else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def format_count(count: int, singular: str, plural: str = "") -> str:
    """Return the count with its noun, and a verb if there is one.

    Without `plural` the plural is the singular with an `s`.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
