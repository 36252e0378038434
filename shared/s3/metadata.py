"""Convert the metadata that obstore returns; pure."""

from datetime import datetime

import obstore

from shared.object_store import ObjectInfo

SOURCE_ETAG = "rowdrop-source-etag"
"""Name, in the metadata of a copy, of the ETag that its source had."""


def make_object_info(meta: "obstore.ObjectMeta", source_etag: str = "") -> ObjectInfo:
    """Return the port's metadata of an object."""
    return ObjectInfo(
        meta["path"],
        strip_quotes(meta["e_tag"]),
        to_unix_seconds(meta["last_modified"]),
        meta["size"],
        source_etag,
    )


def strip_quotes(quoted: str | None) -> str:
    """Return an ETag without its quotes, and an empty text for None."""
    return (quoted or "").strip('"')


def to_unix_seconds(timestamp: datetime | None) -> int:
    """Return a time in whole seconds since 1970 UTC, and 0 for None."""
    # LIST returns milliseconds and HEAD whole seconds. Both are truncated, so that they are equal.
    return int(timestamp.timestamp()) if timestamp else 0
