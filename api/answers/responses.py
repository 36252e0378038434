"""Prepare and send the responses of GET /data.

For each version of the table, a query is evaluated once and its body is rendered once.  The table
caches both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import falcon
from falcon.asgi import Request, Response

from api.answers import formats
from api.answers import html_page as page
from api.answers.compression import (
    MIN_GZIP_BYTES,
    compress_gzip,
    compress_in_blocks,
    find_cut_points,
)
from api.answers.selection import Selection, select_rows
from api.query.links import build_link_header
from api.query.negotiation import ACCEPTED_MEDIA_TYPES, accepts_gzip, negotiate_format
from api.query.row_query import RowQuery
from api.snapshot.table import SnapshotTable
from api.web.conditional import HeaderPairs, apply_etag, compute_etag
from api.web.thread_pool import ThreadPool

# The body depends on these two request headers, so shared caches need one copy for each value.
_VARY_HEADER = (("vary", "Accept, Accept-Encoding"),)
_DOWNLOAD_NAMES = {"csv": "rowdrop.csv", "parquet": "rowdrop.parquet"}


@dataclass(frozen=True, slots=True)
class PreparedResponse:
    """A prepared response: its headers are final, its body is rendered on demand.

    It has no reference to the table, because the table caches it.
    """

    query: RowQuery
    format: str
    is_gzip: bool
    today: date
    etag: str
    headers: HeaderPairs
    parameters: Mapping[str, str | list[str]]

    async def send_response(
        self,
        request: Request,
        response: Response,
        table: SnapshotTable,
        selection: Selection | None,
        compute_pool: ThreadPool,
    ) -> None:
        """Send the response, or a 304 if the client has it.

        `selection`: the result of `select_rows` if it was just computed, else None.
        `compute_pool` renders the body, unless it is cached.
        """
        if not apply_etag(request, response, self.etag, _VARY_HEADER):
            response.set_headers(self.headers)
            body = _get_cached_body(table, self)
            if body is None:
                body = await compute_pool.run(_render_body, table, self, selection)
            response.data = body


def prepare_response(
    table: SnapshotTable, request: Request, today: date
) -> tuple[PreparedResponse, Selection]:
    """Parse a request for rows, and select them.

    Raises `InvalidParameter`, or a 406 if `Accept` matches no format.
    """
    query = RowQuery.parse(request.params)
    format_name = query.format or negotiate_format(request.get_header("Accept"))
    if format_name is None:
        raise falcon.HTTPNotAcceptable(
            description="Accept matches no media type of this route: "
            f"{', '.join(ACCEPTED_MEDIA_TYPES)}."
        )
    if format_name == "html":
        query = query.limit_for_html()
    # The columns of a Parquet file are already compressed.
    is_gzip = format_name != "parquet" and accepts_gzip(request.get_header("Accept-Encoding"))
    # The ETag covers everything that changes the body: ages change with the date, and the links of
    # the HTML page contain the parameters as the client wrote them.
    day = today.isoformat() if query.filters.depends_on_date else None
    html_parameters = sorted(request.params.items()) if format_name == "html" else None
    etag = compute_etag(
        "data", table.etag, query.selection_key, format_name, is_gzip, day, html_parameters
    )
    selection = select_rows(table, query, today)
    headers = _build_headers(request, query, format_name, is_gzip, selection.total)
    prepared = PreparedResponse(query, format_name, is_gzip, today, etag, headers, request.params)
    return prepared, selection


def _build_headers(
    request: Request, query: RowQuery, format_name: str, is_gzip: bool, total: int
) -> HeaderPairs:
    headers = [
        ("content-type", formats.CONTENT_TYPES[format_name]),
        ("x-total-count", str(total)),
    ]
    if is_gzip:
        headers.append(("content-encoding", "gzip"))
    if format_name in _DOWNLOAD_NAMES:
        download_name = _DOWNLOAD_NAMES[format_name]
        headers.append(("content-disposition", f'attachment; filename="{download_name}"'))
    if format_name == "html":
        headers += page.PAGE_HEADERS
    if link := build_link_header("/data", request.params, query.paging, total):
        headers.append(("link", link))
    return tuple(headers)


def _is_whole_table(prepared: PreparedResponse) -> bool:
    return prepared.query.is_unrestricted and prepared.format != "html"


def _get_cached_body(table: SnapshotTable, prepared: PreparedResponse) -> bytes | None:
    """Return the body if it needs no computation, else None."""
    if not _is_whole_table(prepared):
        return table.response_cache.get(prepared.etag)
    if prepared.is_gzip:
        return table.derived.get(("gzip", prepared.format))
    if prepared.format in {"json", "csv"}:
        return _render_table_as(table, prepared.format)
    return table.derived.get(prepared.format)


def _render_body(
    table: SnapshotTable, prepared: PreparedResponse, selection: Selection | None
) -> bytes:
    # Bodies of the whole table bypass the LRU cache, because they may exceed its size.
    if _is_whole_table(prepared):
        render = _compress_table_as if prepared.is_gzip else _render_table_as
        return render(table, prepared.format)
    return table.response_cache.get_or_compute(
        prepared.etag, lambda: _render_selection(table, prepared, selection)
    )


def _render_selection(
    table: SnapshotTable, prepared: PreparedResponse, selection: Selection | None
) -> bytes:
    rows, total = selection or select_rows(table, prepared.query, prepared.today)
    fields = prepared.query.fields
    match prepared.format:
        case "csv":
            body = formats.encode_csv(table, rows, fields)
        case "parquet":
            body = formats.encode_parquet(table, rows, fields)
        case "ndjson":
            body = formats.encode_ndjson(table.select_json(rows), fields)
        case "html":
            page_rows = formats.encode_json_array(table.select_json(rows), fields)
            body = page.render_rows_page(page_rows, total, prepared.query, prepared.parameters)
        case _:
            body = formats.encode_json_array(table.select_json(rows), fields)
    return compress_gzip(body) if prepared.is_gzip else body


def _render_table_as(table: SnapshotTable, format_name: str) -> bytes:
    match format_name:
        case "json":
            return table.json
        case "csv":
            return table.csv
        case "ndjson":
            return table.derived.get_or_compute(
                format_name, lambda: formats.encode_ndjson(table.select_json(None))
            )
        case _:
            return table.derived.get_or_compute(
                format_name, lambda: formats.encode_parquet(table, None)
            )


def _compress_table_as(table: SnapshotTable, format_name: str) -> bytes:
    def compress_text() -> bytes:
        text = _render_table_as(table, format_name)
        if len(text) < MIN_GZIP_BYTES:
            return compress_gzip(text)
        # At first these are the blocks of the previous version: equal ones are reused.
        cut_points = find_cut_points(table.get_row_starts(format_name), table.birthts)
        body, blocks = compress_in_blocks(text, cut_points, table.gzip_blocks[format_name])
        table.gzip_blocks[format_name] = blocks
        return body

    return table.derived.get_or_compute(("gzip", format_name), compress_text)
