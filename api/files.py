"""Endpoints `/files`: upload, download, list and delete files in the source bucket.

These endpoints mark no users. The bucket sends an event for each write, as for any other S3 client.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import falcon
from falcon import Request, Response

from api.filters import InvalidParameter, parse_single_values
from api.links import build_path
from api.refreshes import build_row_path
from api.refusals import Problem
from api.times import format_time
from api.transfers import ByteRange, Transfers
from shared.keys import (
    MAX_KEY_BYTES,
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    explain_unusable_name,
    is_listable_prefix,
    is_valid_key,
)
from shared.object_store import ObjectInfo, ObjectNotFound

MAX_LISTED_FILES = 1000
MAX_CSV_BYTES = 1_000_000
"""Limit of `PUT`. The pipeline would reject a larger CSV."""
ALLOWED_FILE_LIMIT = f"a whole number of files, from 1 to {MAX_LISTED_FILES}"
ALLOWED_KEY = (
    f"a name or the beginning of one, at most {MAX_KEY_BYTES} characters; no part between slashes is . or .. or empty"
)

# At most 18 digits, so that each number fits into 64 bits.
_RANGE_HEADER = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FilesResource:
    """Endpoint `/files`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the bucket's objects, sorted by name."""
        parameters = parse_single_values(request.params, ("prefix", "after", "limit"))
        limit = parse_file_limit(parameters)
        # One object more than the page holds shows whether there is a next page.
        listed = self._transfers.list_page(parse_key(parameters, "prefix"), parse_key(parameters, "after"), limit + 1)
        page_files = listed[:limit]
        response.media = [_describe_file(info) for info in page_files]
        response.set_header("Cache-Control", "no-store")
        if len(listed) > limit:
            next_path = build_path("/files", request.params, after=page_files[-1].key)
            response.set_header("Link", f'<{next_path}>; rel="next"')

    on_head = on_get


class FileResource:
    """Endpoint `/files/{name}`."""

    def __init__(self, transfers: Transfers, max_upload_bytes: int) -> None:
        self._transfers, self._max_upload_bytes = transfers, max_upload_bytes

    def on_get(self, request: Request, response: Response, name: str) -> None:
        """Answer with the file, or with the bytes of `Range`, as a download.

        A browser saves the file instead of showing it: its content is untrusted.
        """
        parse_single_values(request.params, ())
        if not is_valid_key(name):
            raise _no_such_file(name)
        try:
            first_segment = self._transfers.fetch_first_segment(name, request, response)
        except ObjectNotFound:
            raise _no_such_file(name) from None
        if first_segment is None:
            return
        response.set_header("Accept-Ranges", "bytes")
        response.set_header("Content-Disposition", format_content_disposition("attachment", name))
        response.content_type = "text/csv" if name.endswith(".csv") else "application/octet-stream"
        byte_range = parse_range(request, f'"{first_segment.etag}"', first_segment.size)
        if byte_range:
            response.status = falcon.HTTP_206
            response.set_header("Content-Range", f"bytes {byte_range.start}-{byte_range.stop - 1}/{first_segment.size}")
        self._transfers.send_object(
            request, response, name, first_segment, byte_range or ByteRange(0, first_segment.size)
        )

    on_head = on_get

    def on_put(self, request: Request, response: Response, name: str) -> None:
        """Store the request's body under this name.

        The row follows asynchronously: the write triggers an event of the bucket.
        """
        parse_single_values(request.params, ())
        # falcon decodes bytes that are not UTF-8 as U+FFFD.
        refusal = explain_unusable_name(name) or ("its name is not UTF-8" if "\ufffd" in name else None)
        if refusal:
            raise Problem("wrong-name", f"{name[:80]!r} would be ignored: {refusal}.")
        length = request.content_length
        if length is None:
            raise Problem("no-length", "Send Content-Length with the file; chunked transfer coding is not supported.")
        # The store would accept an empty file, but an upload without a body is a mistake.
        if not length:
            raise Problem("wrong-request", "The request has no body. With curl, send the file with -T.")
        max_bytes = min(MAX_CSV_BYTES, self._max_upload_bytes) if name.endswith(".csv") else self._max_upload_bytes
        if length > max_bytes:
            raise Problem(
                "too-large", f"The file has {length:,} bytes; the limit is {max_bytes:,}.", most_bytes=max_bytes
            )
        etag = self._transfers.store_upload(request, name, length)
        _send_accepted(response, name, {"status": "stored", "size": length, "etag": etag})

    def on_delete(self, request: Request, response: Response, name: str) -> None:
        """Delete the file.

        The row follows asynchronously: the deletion triggers an event of the bucket.
        """
        parse_single_values(request.params, ())
        if not (is_valid_key(name) and self._transfers.delete_object(name)):
            raise _no_such_file(name)
        _send_accepted(response, name, {"status": "deleted"})


def _send_accepted(response: Response, name: str, fields: dict[str, Any]) -> None:
    """Set the status 202 and `Location`, where the effect becomes visible.

    That is the user's row, `/tasks` for a bundle, and `/errors` for an ignored key.
    """
    source_key = classify_key(name)
    user_id = source_key.user_id if isinstance(source_key, UserFile) else None
    look_at = (
        build_row_path(user_id) if user_id is not None else "/tasks" if isinstance(source_key, Bundle) else "/errors"
    )
    response.status, response.media = falcon.HTTP_202, {"name": name, "user_id": user_id, **fields, "look_at": look_at}
    response.set_header("Location", look_at)


def _describe_file(info: ObjectInfo) -> dict[str, Any]:
    source_key = classify_key(info.key)
    return {
        "name": info.key,
        "user_id": source_key.user_id if isinstance(source_key, UserFile) else None,
        "size": info.size,
        "etag": info.etag,
        "last_modified": format_time(info.last_modified),
        "ignored": source_key.reason if isinstance(source_key, IgnoredFile) else None,
    }


def parse_range(request: Request, etag: str, size: int) -> ByteRange | None:
    """Return the span of a single `Range` (RFC 9110, 14.2), or None for the whole file.

    Other ranges, and those for another version (`If-Range`), are ignored. Raises a 416 if the file
    has none of the bytes.
    """
    match = _RANGE_HEADER.fullmatch(request.get_header("Range", default="").strip())
    if not match or match[0] == "bytes=-" or request.get_header("If-Range", default=etag) != etag or not size:
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Problem("wrong-range", f"The file has {size:,} bytes.", {"Content-Range": f"bytes */{size}"})
    return ByteRange(start, stop)


def format_content_disposition(disposition_type: str, name: str) -> str:
    """Return a `Content-Disposition` value for a file name with any characters (RFC 6266)."""
    return f"{disposition_type}; filename*=UTF-8''{quote(name, safe='')}"


def _no_such_file(name: str) -> Problem:
    return Problem("no-such-file", f"The source bucket has no file {name[:300]!r}.")


def parse_file_limit(parameters: Mapping[str, str]) -> int:
    """Return `limit` of the query string: 1 to `MAX_LISTED_FILES`. Anything else is a 400 problem."""
    text = parameters.get("limit", str(MAX_LISTED_FILES))
    # `isdigit` alone also accepts the digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LISTED_FILES):
        raise InvalidParameter("limit", f"{text[:40]!r} is not a valid number of files", ALLOWED_FILE_LIMIT)
    return int(text)


def parse_key(parameters: Mapping[str, str], name: str) -> str:
    """Return a key prefix of the query string. One that no key can begin with is a 400 problem."""
    text = parameters.get(name, "")
    if len(text) > MAX_KEY_BYTES or not is_listable_prefix(text):
        raise InvalidParameter(name, "not a name or the beginning of one", ALLOWED_KEY)
    return text
