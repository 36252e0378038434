"""Endpoints `/files`: upload, download, list and delete files in the source bucket.

These endpoints mark no users. The bucket sends an event for each write, as for any other S3 client.
"""

from collections.abc import AsyncIterator
from typing import Any

import falcon
from falcon.asgi import Request, Response
from falcon.asgi.multipart import BodyPart

from api.access.auth import was_allowed_by_token
from api.answers.formats import CONTENT_TYPES
from api.answers.html_page import PAGE_HEADERS, render_stored_page
from api.controllers.bundle_drop_controller import BundleDropController
from api.controllers.drop_controller import DropController
from api.controllers.receipt_controller import ReceiptController
from api.query.body_forms import describe_wrapped_body, format_upload_command
from api.query.file_query import parse_file_limit, parse_key
from api.query.links import build_path, build_row_path
from api.query.parameters import parse_single_values
from api.query.wait_query import parse_wait
from api.web.problems import Problem, build_too_large_problem
from api.web.transfers import (
    ByteRange,
    FormFile,
    Transfers,
    format_content_disposition,
    parse_range,
)
from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.source_keys import (
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    explain_unusable_name,
    is_valid_key,
    make_file_path,
)
from shared.object_store import ObjectInfo, ObjectNotFound
from shared.text import format_time

RECEIPT_SUFFIX = "/receipt"
"""The end of the address of a receipt. No user file or bundle has such a name, which is that of an
object in a folder."""
_FORM_TYPE = "multipart/form-data"
_FORM_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}
"""What browsers send for these characters in file names (HTML standard). `%` stays as it is."""
MAX_FORM_FILES = 1_000
"""Files and fields that a form may have."""
FORM_BYTES = 20_000
"""Bytes that a form may have in addition to the largest file."""


class FilesResource:
    """Endpoint `/files`."""

    def __init__(self, transfers: Transfers, max_upload_bytes: int) -> None:
        self._transfers = transfers
        self._max_upload_bytes = max_upload_bytes

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer with one page of the bucket's objects, sorted by name."""
        parameters = parse_single_values(request.params, ("prefix", "after", "limit"))
        limit = parse_file_limit(parameters)
        # One object more than the page holds shows whether there is a next page.
        prefix = parse_key(parameters, "prefix")
        after = parse_key(parameters, "after")
        listed = await self._transfers.list_page(prefix, after, limit + 1)
        page_files = listed[:limit]
        response.media = [_describe_file(info) for info in page_files]
        response.set_header("Cache-Control", "no-store")
        if len(listed) > limit:
            next_path = build_path("/files", request.params, after=page_files[-1].key)
            response.set_header("Link", f'<{next_path}>; rel="next"')

    on_head = on_get

    async def on_post(self, request: Request, response: Response) -> None:
        """Store the files of a form, for browsers without scripts, and answer with a page.

        If the form or one of its files is refused, none of them is stored.
        """
        parse_single_values(request.params, ())
        if request.content_type is None or not request.content_type.startswith(_FORM_TYPE):
            detail = f"Send the form as {_FORM_TYPE}, or a file by PUT /files/{{name}}."
            raise falcon.HTTPBadRequest(description=detail)
        length = _require_length(request, self._max_upload_bytes + FORM_BYTES, "form")
        try:
            names = await self._transfers.store_form(self._list_files(request), length)
        except falcon.MultipartParseError as error:
            detail = (
                f"{error.description}: the form is damaged, or has more than "
                f"{MAX_FORM_FILES:,} files and fields; nothing was stored"
            )
            raise falcon.HTTPBadRequest(description=detail) from error
        if not names:
            raise falcon.HTTPBadRequest(description="The form has no file.")
        response.content_type = CONTENT_TYPES["html"]
        response.set_headers(PAGE_HEADERS)
        response.data = render_stored_page(names)

    async def _list_files(self, request: Request) -> AsyncIterator[FormFile]:
        async for part in await request.get_media():
            name = _read_file_name(part)
            if name:  # otherwise another field, or no file was chosen
                _check_name(name)
                yield FormFile(name, part.stream, _limit_size(name, self._max_upload_bytes))


class FileResource:
    """Endpoint `/files/{name}`."""

    def __init__(
        self,
        transfers: Transfers,
        drops: DropController,
        bundle_drops: BundleDropController,
        receipts: ReceiptController,
        max_upload_bytes: int,
    ) -> None:
        self._transfers = transfers
        self._drops = drops
        self._bundle_drops = bundle_drops
        self._receipts = receipts
        self._max_upload_bytes = max_upload_bytes

    async def on_get(self, request: Request, response: Response, name: str) -> None:
        """Answer with the file, or with the bytes of `Range`, as a download.

        A browser saves the file instead of showing it: its content is untrusted. With `/receipt`
        after the name, answers with what became of the file.
        """
        if name.endswith(RECEIPT_SUFFIX):
            await self._receipts.respond(request, response, name.removesuffix(RECEIPT_SUFFIX))
            return
        parse_single_values(request.params, ())
        # The store would answer such a key with an error, not with NoSuchKey.
        if not is_valid_key(name):
            raise _build_no_file_problem(name)
        try:
            first_segment = await self._transfers.fetch_first_segment(name, request, response)
        except ObjectNotFound:
            raise _build_no_file_problem(name) from None
        if first_segment is None:
            return
        response.set_header("Accept-Ranges", "bytes")
        response.set_header("Content-Disposition", format_content_disposition("attachment", name))
        response.content_type = "text/csv" if name.endswith(".csv") else "application/octet-stream"
        byte_range = parse_range(request, f'"{first_segment.etag}"', first_segment.size)
        if byte_range:
            response.status = falcon.HTTP_206
            last = byte_range.stop - 1
            response.content_range = (byte_range.start, last, first_segment.size)
        else:
            byte_range = ByteRange(0, first_segment.size)
        self._transfers.send_object(request, response, name, first_segment, byte_range)

    on_head = on_get

    async def on_put(self, request: Request, response: Response, name: str) -> None:
        """Store the request's body under this name.

        The row follows asynchronously: the write triggers an event of the bucket. With `?wait=`,
        responds with the row of a user's file or with the counts of a bundle, or with a 422 and the
        reason, once the result is published.
        """
        _refuse_receipt(name)
        wait_s = parse_wait(request)
        _check_name(name)
        if wrapping := describe_request_body(request):
            raise build_wrapped_body_problem(
                f"The body must be the file itself, but it is {wrapping}; nothing was stored.",
                request,
                name,
            )
        length = _require_length(request, _limit_size(name, self._max_upload_bytes))
        etag = await self._transfers.store_upload(request, name, length)
        _send_accepted(response, name, {"status": "stored", "size": length, "etag": etag})
        file = classify_key(name)
        if wait_s and isinstance(file, UserFile):
            await self._drops.await_result(response, file, name, etag, wait_s)
        elif wait_s:
            await self._bundle_drops.await_result(request, response, name, etag, wait_s)

    async def on_options(self, request: Request, response: Response, name: str) -> None:
        """Answer with the methods: a receipt can only be read."""
        is_receipt = name.endswith(RECEIPT_SUFFIX)
        response.set_header("Allow", "GET, HEAD" if is_receipt else "DELETE, GET, HEAD, PUT")
        response.set_header("Content-Length", "0")

    async def on_delete(self, request: Request, response: Response, name: str) -> None:
        """Delete the file.

        The row follows asynchronously: the deletion triggers an event of the bucket.
        """
        if request.params:  # those of a receipt, which has no DELETE, are not unknown there
            _refuse_receipt(name)
        parse_single_values(request.params, ())
        if not (is_valid_key(name) and await self._transfers.delete_object(name)):
            # An ignored key in a folder may have the name of a receipt: it can be deleted.
            _refuse_receipt(name)
            raise _build_no_file_problem(name)
        _send_accepted(response, name, {"status": "deleted"})


def _refuse_receipt(name: str) -> None:
    if name.endswith(RECEIPT_SUFFIX):
        raise falcon.HTTPMethodNotAllowed(["GET", "HEAD"])


def _read_file_name(part: BodyPart) -> str | None:
    """Return the name of a file in a form, None for another field. Raises a 400 for no UTF-8."""
    try:
        name = part.filename
        (name or "").encode()  # `filename*` may have a charset that gives lone surrogates
    except UnicodeError:
        detail = "The form has a file with a name that is not UTF-8."
        raise Problem("wrong-parameter", detail, parameter="name") from None
    if name:
        for escape, character in _FORM_ESCAPES.items():
            name = name.replace(escape, character)
    return name


def _check_name(name: str) -> None:
    refusal = explain_unusable_name(name)
    # falcon decodes bytes that are not UTF-8 as U+FFFD.
    if not refusal and "\ufffd" in name:
        refusal = "its name is not UTF-8"
    if refusal:
        detail = f"{name[:80]!r} would be ignored: {refusal}."
        raise Problem("wrong-parameter", detail, parameter="name")


def _limit_size(name: str, max_upload_bytes: int) -> int:
    # The pipeline would reject a larger CSV.
    return min(max_upload_bytes, MAX_CSV_BYTES) if name.endswith(".csv") else max_upload_bytes


def _require_length(request: Request, max_bytes: int, what: str = "file") -> int:
    length = request.content_length
    if length is None:
        raise falcon.HTTPLengthRequired(
            description="Send Content-Length with the file; "
            "chunked transfer coding is not supported."
        )
    # The store would accept an empty file, but an upload without a body is a mistake.
    if not length:
        raise falcon.HTTPBadRequest(
            description="The body is empty (0 bytes). "
            "Send a file that has content: curl -T FILE URL."
        )
    if length > max_bytes:
        raise build_too_large_problem(length, max_bytes, what)
    return length


def describe_request_body(request: Request) -> str | None:
    """Return how the body wraps a file, None if it does not."""
    return describe_wrapped_body(request.content_type, request.get_header("Content-Encoding"))


def build_wrapped_body_problem(
    detail: str, request: Request, name: str
) -> falcon.HTTPUnsupportedMediaType:
    """Return a 415 with the command that uploads the file `name` to this API."""
    url = f"{request.forwarded_prefix}{make_file_path(name)}"
    command = format_upload_command(url, name, needs_token=was_allowed_by_token(request))
    return falcon.HTTPUnsupportedMediaType(
        description=f"{detail} Send the file with: {command}",
        headers={"Accept-Encoding": "identity"},
    )


def _send_accepted(response: Response, name: str, fields: dict[str, Any]) -> None:
    """Set the status 202 and `Location`, where the effect becomes visible.

    That is the user's row, `/tasks` for a bundle, and `/errors` for an ignored key.
    """
    source_key = classify_key(name)
    user_id = source_key.user_id if isinstance(source_key, UserFile) else None
    if user_id is not None:
        look_at = build_row_path(user_id)
    elif isinstance(source_key, Bundle):
        look_at = "/tasks"
    else:
        look_at = "/errors"
    response.status = falcon.HTTP_202
    response.media = {"name": name, "user_id": user_id, **fields, "look_at": look_at}
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


def _build_no_file_problem(name: str) -> Problem:
    return Problem("not-found", f"The source bucket has no file {name[:300]!r}.")
