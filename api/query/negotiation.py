"""Negotiate the format and the content coding of a response (RFC 9110, 12.5.1 and 12.5.3)."""

import re
from functools import lru_cache

from falcon.util.mediatypes import best_match

_FORMAT_BY_MEDIA_TYPE = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "text/html": "html",
}
_GZIP_PATTERN = re.compile(r"(?i)(?:^|,)\s*(gzip|x-gzip|\*)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?(?=,|$)")

ACCEPTED_MEDIA_TYPES = tuple(_FORMAT_BY_MEDIA_TYPE)
"""The supported media types; the first one wins if a client has no preference."""


@lru_cache(256)
def negotiate_format(accept: str | None) -> str | None:
    """Return the format that `Accept` prefers; None if it accepts no supported one."""
    if not accept:
        return "json"
    try:
        return _FORMAT_BY_MEDIA_TYPE.get(best_match(ACCEPTED_MEDIA_TYPES, accept))
    except ValueError:  # the header is malformed
        return None


@lru_cache(256)
def prefers_html(accept: str | None) -> bool:
    """Return whether `Accept` prefers HTML to JSON, as that of a browser does."""
    if not accept:
        return False
    try:
        return best_match(("application/json", "text/html"), accept) == "text/html"
    except ValueError:  # the header is malformed
        return False


@lru_cache(256)
def accepts_gzip(accept_encoding: str | None) -> bool:
    """Return whether `Accept-Encoding` accepts gzip, by name or by `*`, with a weight above 0."""
    weights = {
        name.lower(): weight for name, weight in _GZIP_PATTERN.findall(accept_encoding or "")
    }
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*")))
    # A name without a weight (empty here) has the weight 1.
    return weight is not None and (not weight or _is_positive(weight))


def _is_positive(weight: str) -> bool:
    try:
        return float(weight) > 0
    except ValueError:
        return False
