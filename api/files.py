"""Endpoints `/files`: upload, download, list and delete files in the source bucket.

These endpoints mark no users. The bucket sends an event for each write, as for any other S3 client.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import falcon
from falcon import Request, Response

from api.filters import WrongParameter, single_values
from api.links import address
from api.refreshes import row_address
from api.refusals import Problem
from api.times import iso
from api.transfers import Span, Transfers
from shared.keys import LONGEST_KEY, Bundle, Ignored, UserFile, can_be_looked_for, classify, is_possible, refusal_of
from shared.object_store import ObjectInfo, ObjectNotFound

MOST_LISTED = 1000
MAX_CSV_BYTES = 1_000_000
"""Limit of `PUT`. The pipeline would reject a larger CSV."""
A_PAGE = f"a whole number of files, from 1 to {MOST_LISTED}"
A_KEY = f"a name or the beginning of one, at most {LONGEST_KEY} characters; no part between slashes is . or .. or empty"

# At most 18 digits, so that each number fits into 64 bits.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FilesResource:
    """Endpoint `/files`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the bucket's objects, sorted by name."""
        values = single_values(request.params, ("prefix", "after", "limit"))
        limit = _limit(values)
        # One object more than the page holds shows whether there is a next page.
        found = self._transfers.page(_key(values, "prefix"), _key(values, "after"), limit + 1)
        shown = found[:limit]
        response.media = [_file(info) for info in shown]
        response.set_header("Cache-Control", "no-store")
        if len(found) > limit:
            target = address("/files", request.params, after=shown[-1].key)
            response.set_header("Link", f'<{target}>; rel="next"')

    on_head = on_get


class FileResource:
    """Endpoint `/files/{name}`."""

    def __init__(self, transfers: Transfers, max_upload_bytes: int) -> None:
        self._transfers, self._most = transfers, max_upload_bytes

    def on_get(self, request: Request, response: Response, name: str) -> None:
        """Answer with the file, or with the bytes of `Range`, as a download.

        A browser saves the file instead of showing it: its content is untrusted.
        """
        single_values(request.params, ())
        if not is_possible(name):
            raise _no_such_file(name)
        try:
            first = self._transfers.first(name, request, response)
        except ObjectNotFound:
            raise _no_such_file(name) from None
        if first is None:
            return
        response.set_header("Accept-Ranges", "bytes")
        response.set_header("Content-Disposition", disposition("attachment", name))
        response.content_type = "text/csv" if name.endswith(".csv") else "application/octet-stream"
        span = wanted(request, f'"{first.etag}"', first.size)
        if span:
            response.status = falcon.HTTP_206
            response.set_header("Content-Range", f"bytes {span.start}-{span.stop - 1}/{first.size}")
        self._transfers.send(request, response, name, first, span or Span(0, first.size))

    on_head = on_get

    def on_put(self, request: Request, response: Response, name: str) -> None:
        """Store the request's body under this name.

        The row follows asynchronously: the write triggers an event of the bucket.
        """
        single_values(request.params, ())
        # falcon decodes bytes that are not UTF-8 as U+FFFD.
        refusal = refusal_of(name) or ("its name is not UTF-8" if "\ufffd" in name else None)
        if refusal:
            raise Problem("wrong-name", f"{name[:80]!r} would be ignored: {refusal}.")
        length = request.content_length
        if length is None:
            raise Problem("no-length", "Send Content-Length with the file; chunked transfer coding is not supported.")
        # The store would accept an empty file, but an upload without a body is a mistake.
        if not length:
            raise Problem("wrong-request", "The request has no body. With curl, send the file with -T.")
        most = min(MAX_CSV_BYTES, self._most) if name.endswith(".csv") else self._most
        if length > most:
            raise Problem("too-large", f"The file has {length:,} bytes; the limit is {most:,}.", most_bytes=most)
        etag = self._transfers.receive(request, name, length)
        _accepted(response, name, {"status": "stored", "size": length, "etag": etag})

    def on_delete(self, request: Request, response: Response, name: str) -> None:
        """Delete the file.

        The row follows asynchronously: the deletion triggers an event of the bucket.
        """
        single_values(request.params, ())
        if not (is_possible(name) and self._transfers.remove(name)):
            raise _no_such_file(name)
        _accepted(response, name, {"status": "deleted"})


def _accepted(response: Response, name: str, answer: dict[str, Any]) -> None:
    """Set the status 202 and `Location`, where the effect becomes visible.

    That is the user's row, `/tasks` for a bundle, and `/errors` for an ignored key.
    """
    found = classify(name)
    user_id = found.user_id if isinstance(found, UserFile) else None
    look_at = row_address(user_id) if user_id is not None else "/tasks" if isinstance(found, Bundle) else "/errors"
    response.status, response.media = falcon.HTTP_202, {"name": name, "user_id": user_id, **answer, "look_at": look_at}
    response.set_header("Location", look_at)


def _file(info: ObjectInfo) -> dict[str, Any]:
    found = classify(info.key)
    return {
        "name": info.key,
        "user_id": found.user_id if isinstance(found, UserFile) else None,
        "size": info.size,
        "etag": info.etag,
        "last_modified": iso(info.last_modified),
        "ignored": found.reason if isinstance(found, Ignored) else None,
    }


def wanted(request: Request, etag: str, size: int) -> Span | None:
    """Return the span of a single `Range` (RFC 9110, 14.2), or None for the whole file.

    Other ranges, and those for another version (`If-Range`), are ignored. Raises a 416 if the file
    has none of the bytes.
    """
    asked = _RANGE.fullmatch(request.get_header("Range", default="").strip())
    if not asked or asked[0] == "bytes=-" or request.get_header("If-Range", default=etag) != etag or not size:
        return None
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Problem("wrong-range", f"The file has {size:,} bytes.", {"Content-Range": f"bytes */{size}"})
    return Span(start, stop)


def disposition(kind: str, name: str) -> str:
    """Return a `Content-Disposition` value for a file name with any characters (RFC 6266)."""
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}"


def _no_such_file(name: str) -> Problem:
    return Problem("no-such-file", f"The source bucket has no file {name[:300]!r}.")


def _limit(values: Mapping[str, str]) -> int:
    text = values.get("limit", str(MOST_LISTED))
    # `isdigit` alone also accepts the digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST_LISTED):
        raise WrongParameter("limit", f"{text[:40]!r} is not a valid number of files", A_PAGE)
    return int(text)


def _key(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    if len(text) > LONGEST_KEY or not can_be_looked_for(text):
        raise WrongParameter(name, "not a name or the beginning of one", A_KEY)
    return text
