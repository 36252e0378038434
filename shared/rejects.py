"""The format of rejects.csv: one line per CSV or bundle that is not valid. Pure.

In the file, a bundle's line has no user_id. In memory it has the ID of `shared.keys.bundle_id`,
which no user can have.
"""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter

from shared.keys import bundle_id, bundle_key
from shared.records import Reject

HEADER = "key,user_id,reason,line,since,etag,rules"


class InvalidRejectsCsv(ValueError):
    """The bytes are not a valid rejects.csv."""


def encode(rejects: Iterable[Reject]) -> bytes:
    """Encode rejects as UTF-8 with LF and RFC 4180 quoting, sorted by user ID by code point.

    One record is always one line: line breaks in a reason become spaces.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for reject in sorted(rejects, key=attrgetter("user_id")):
        line = "" if reject.line is None else reject.line
        since = datetime.fromtimestamp(reject.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        reason = " ".join(reject.reason.splitlines())
        user_id = "" if bundle_key(reject.user_id) else reject.user_id
        writer.writerow((reject.key, user_id, reason, line, since, reject.etag, reject.rules))
    return f"{HEADER}\n{text.getvalue()}".encode()


def decode(body: bytes) -> dict[str, Reject]:
    """Decode a rejects.csv into a dict by user ID.

    Invalid lines are skipped, because the next sweep finds the missing rejects. Raises
    `InvalidRejectsCsv` if the header differs from `HEADER` or the bytes are not UTF-8.
    """
    try:
        # Not splitlines(): a user ID may contain U+2028 or U+0085, which end no line here.
        header, *lines = body.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRejectsCsv(f"not UTF-8 at byte {error.start + 1}") from None
    if header != HEADER:
        raise InvalidRejectsCsv(f"line 1 is not {HEADER}")
    rejects = filter(None, map(_decode_line, lines))
    return {reject.user_id: reject for reject in rejects}


def _decode_line(text: str) -> Reject | None:
    try:
        key, user_id, reason, line, since, etag, rules = next(csv.reader([text], strict=True))
        when = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        place, user_id = int(line) if line else None, user_id or bundle_id(key)
        return Reject(key, user_id, reason, place, int(when.timestamp()), etag, rules)
    except (csv.Error, ValueError, StopIteration):
        return None
