"""Build the answers of GET /data."""

from datetime import date

import falcon
from falcon.asgi import Request

from api.answers import formats
from api.answers import html_page as page
from api.answers.compression import (
    MIN_GZIP_BYTES,
    compress_gzip,
    compress_in_blocks,
    find_cut_points,
)
from api.answers.selection import select_rows
from api.answers.table_answers import Answer
from api.query.links import build_link_header
from api.query.negotiation import ACCEPTED_MEDIA_TYPES, accepts_gzip, negotiate_format
from api.query.parameters import check_encoding
from api.query.row_query import RowQuery
from api.snapshot.table import SnapshotTable
from api.web.conditional import HeaderPairs, compute_etag

# The body depends on these two request headers, so shared caches need one copy for each value.
_VARY_HEADER = (("vary", "Accept, Accept-Encoding"),)
_DOWNLOAD_NAMES = {"csv": "rowdrop.csv", "parquet": "rowdrop.parquet"}


def build_rows_answer(table: SnapshotTable, request: Request, today: date) -> Answer:
    """Return the answer to a request for rows.

    Raises `InvalidParameter`, or a 406 if `Accept` matches no format.
    """
    check_encoding(request.query_string)
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
    if query.is_unrestricted and format_name != "html":
        total = table.row_count
        render_table = _compress_table_as if is_gzip else _render_table_as
        body = render_table(table, format_name)
    else:
        body, total = _render_selection(table, request, query, format_name, today)
        if is_gzip:
            body = compress_gzip(body)
    headers = _build_headers(table, request, query, format_name, is_gzip, total)
    return Answer(etag, headers, body, _VARY_HEADER)


def _build_headers(
    table: SnapshotTable,
    request: Request,
    query: RowQuery,
    format_name: str,
    is_gzip: bool,
    total: int,
) -> HeaderPairs:
    headers = [
        ("content-type", formats.CONTENT_TYPES[format_name]),
        ("x-total-count", str(total)),
        ("x-table-version", table.etag),
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


def _render_selection(
    table: SnapshotTable, request: Request, query: RowQuery, format_name: str, today: date
) -> tuple[bytes, int]:
    """Return the rows of the page, and the number of rows on all pages."""
    rows, total = select_rows(table, query, today)
    fields = query.fields
    match format_name:
        case "csv":
            body = formats.encode_csv(table, rows, fields)
        case "parquet":
            body = formats.encode_parquet(table, rows, fields)
        case "ndjson":
            body = formats.encode_ndjson(table.select_json(rows), fields)
        case "html":
            page_rows = formats.encode_json_array(table.select_json(rows), fields)
            body = page.render_rows_page(page_rows, total, query, request.params)
        case _:
            body = formats.encode_json_array(table.select_json(rows), fields)
    return body, total


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
