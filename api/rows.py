"""Prepare and send the responses of GET /data.

For each version of the table, a query is evaluated once and its body is rendered once.  The table
caches both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from falcon import Request, Response

from api import formats, page
from api.compression import GZIP_FROM_BYTES, cuts, gzip, gzip_in_blocks
from api.conditional import Headers, etag_of, not_modified
from api.links import links
from api.negotiation import MEDIA_TYPES, format_of, takes_gzip
from api.question import Question
from api.refusals import Problem
from api.selection import Selection, select
from api.snapshot import Table

_VARY = (("vary", "Accept, Accept-Encoding"),)
_FILE_NAME = {"csv": "rowdrop.csv", "parquet": "rowdrop.parquet"}


@dataclass(frozen=True, slots=True)
class Ready:
    """A prepared response: its headers are final, its body is rendered on demand.

    It has no reference to the table, because the table caches it.
    """

    question: Question
    format: str
    is_gzip: bool
    today: date
    etag: str
    headers: Headers
    parameters: Mapping[str, str | list[str]]

    def send(self, request: Request, response: Response, table: Table, selection: Selection | None = None) -> None:
        """Send the response, or a 304 if the client has it.

        `selection`: the result of `select` if it was just computed, None if it must be computed.
        """
        if not not_modified(request, response, self.etag, _VARY):
            response.set_headers(self.headers)
            response.data = _body(table, self, selection)


def prepare(table: Table, request: Request, today: date) -> tuple[Ready, Selection]:
    """Parse a request for rows, and select them.

    Raises `WrongParameter`, or a 406 `Problem` if `Accept` matches no format.
    """
    question = Question.parse(request.params)
    kind = question.format or format_of(request.env.get("HTTP_ACCEPT"))
    if kind is None:
        raise Problem("no-such-format", "Accept matches no media type of this route.", allowed=list(MEDIA_TYPES))
    if kind == "html":
        question = question.for_browsers()
    # The columns of a Parquet file are already compressed.
    is_gzip = kind != "parquet" and takes_gzip(request.env.get("HTTP_ACCEPT_ENCODING"))
    # The ETag covers everything that changes the body: ages change with the date, and the links of
    # the HTML page contain the parameters as the client wrote them.
    day = today.isoformat() if question.filters.by_age else None
    words = sorted(request.params.items()) if kind == "html" else None
    etag = etag_of("data", table.etag, question.rows, kind, is_gzip, day, words)
    selection = select(table, question, today)
    headers = _headers(request, question, kind, is_gzip, selection.total)
    return Ready(question, kind, is_gzip, today, etag, headers, request.params), selection


def _headers(request: Request, question: Question, kind: str, is_gzip: bool, total: int) -> Headers:
    headers = [
        ("content-type", formats.MEDIA_TYPES[kind]),
        ("x-total-count", str(total)),
    ]
    if is_gzip:
        headers.append(("content-encoding", "gzip"))
    if kind in _FILE_NAME:
        headers.append(("content-disposition", f'attachment; filename="{_FILE_NAME[kind]}"'))
    if kind == "html":
        headers += page.HEADERS
    if link := links("/data", request.params, question.page, total):
        headers.append(("link", link))
    return tuple(headers)


def _body(table: Table, ready: Ready, selection: Selection | None) -> bytes:
    # Bodies of the whole table bypass the LRU cache, because they may exceed its size.
    if ready.question.is_whole and ready.format != "html":
        return _whole_gzip(table, ready.format) if ready.is_gzip else _whole(table, ready.format)
    return table.answers.made(ready.etag, lambda: _made(table, ready, selection))


def _made(table: Table, ready: Ready, selection: Selection | None) -> bytes:
    rows, total = selection or select(table, ready.question, ready.today)
    fields = ready.question.fields
    match ready.format:
        case "csv":
            body = formats.csv(table, rows, fields)
        case "parquet":
            body = formats.parquet(table, rows, fields)
        case "ndjson":
            body = formats.ndjson(table.pick(rows), fields)
        case "html":
            shown = formats.json_array(table.pick(rows), fields)
            body = page.rows_page(shown, total, ready.question, ready.parameters)
        case _:
            body = formats.json_array(table.pick(rows), fields)
    return gzip(body) if ready.is_gzip else body


def _whole(table: Table, kind: str) -> bytes:
    match kind:
        case "json":
            return table.json
        case "csv":
            return table.csv
        case "ndjson":
            return table.prepared.get(kind, lambda: formats.ndjson(table.pick(None)))
        case _:
            return table.prepared.get(kind, lambda: formats.parquet(table, None))


def _whole_gzip(table: Table, kind: str) -> bytes:
    def make() -> bytes:
        text = _whole(table, kind)
        if len(text) < GZIP_FROM_BYTES:
            return gzip(text)
        body, table.blocks[kind] = gzip_in_blocks(text, cuts(table.starts(kind), table.birthts), table.blocks[kind])
        return body

    return table.prepared.get(("gzip", kind), make)
