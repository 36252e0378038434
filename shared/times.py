"""Times in JSON and in the output of the command line: ISO 8601 in UTC.  Pure."""

from datetime import UTC, datetime


def format_time(seconds: float | None) -> str | None:
    """Format Unix seconds as `2026-01-31T12:00:00Z`, with milliseconds if there are any.

    None stays None.
    """
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    precision = "milliseconds" if moment.microsecond >= 1000 else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
