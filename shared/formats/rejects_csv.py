"""The format of rejects.csv: one line per CSV or bundle that is not valid. Pure.

In the file, a bundle's line has no user_id. In memory it has the ID of
`shared.formats.source_keys.make_bundle_id`, which no user can have.
"""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter

from shared.formats.records import Reject
from shared.formats.source_keys import make_bundle_id, parse_bundle_id

REJECTS_HEADER = "key,user_id,reason,line,since,etag,rules"


class InvalidRejectsCsv(ValueError):
    """The bytes are not a valid rejects.csv."""


def encode_rejects(rejects: Iterable[Reject]) -> bytes:
    """Encode rejects as UTF-8 with LF and RFC 4180 quoting, sorted by user ID by code point.

    One record is always one line: line breaks in a reason become spaces.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for reject in sorted(rejects, key=attrgetter("user_id")):
        line_text = "" if reject.line is None else reject.line
        since = datetime.fromtimestamp(reject.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        reason = " ".join(reject.reason.splitlines())
        user_id = "" if parse_bundle_id(reject.user_id) else reject.user_id
        writer.writerow((reject.key, user_id, reason, line_text, since, reject.etag, reject.rules))
    return f"{REJECTS_HEADER}\n{buffer.getvalue()}".encode()


def decode_rejects(body: bytes) -> dict[str, Reject]:
    """Decode a rejects.csv into a dict by user ID.

    Invalid lines are skipped, because the next sweep finds the missing rejects. Raises
    `InvalidRejectsCsv` if the header differs from `REJECTS_HEADER` or the bytes are not UTF-8.
    """
    try:
        # Not splitlines(): a user ID may contain U+2028 or U+0085, which end no line here.
        header, *lines = body.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRejectsCsv(f"not UTF-8 at byte {error.start + 1}") from None
    if header != REJECTS_HEADER:
        raise InvalidRejectsCsv(f"line 1 is not {REJECTS_HEADER}")
    rejects = filter(None, map(_decode_line_or_none, lines))
    return {reject.user_id: reject for reject in rejects}


def _decode_line_or_none(text: str) -> Reject | None:
    try:
        key, user_id, reason, line, since, etag, rules = next(csv.reader([text], strict=True))
        last_modified = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        line_number = int(line) if line else None
        user_id = user_id or make_bundle_id(key)
        return Reject(
            key, user_id, reason, line_number, int(last_modified.timestamp()), etag, rules
        )
    except (csv.Error, ValueError, StopIteration):
        return None
