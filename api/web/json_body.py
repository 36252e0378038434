"""Encode small JSON responses, and the times in them: ISO 8601 in UTC.  Pure."""

import json
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


def encode_json(body: object) -> str:
    """Encode a small response as JSON with a final LF, indented to be readable by people, too.

    Raises `TypeError` for a value that JSON cannot encode.
    """
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"
