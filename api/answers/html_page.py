"""Render rows as an HTML page without scripts or external resources.  Pure."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any
from urllib.parse import quote

from api.query.links import build_path
from api.query.row_query import RowQuery
from shared.formats.records import COLUMNS, Column, Filter, get_title
from shared.text import format_count

PAGE_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --link: #06c; }
@media (prefers-color-scheme: dark) { :root { --link: #6bf; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; \
border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
form { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; align-items: end; }
label { font-size: .8rem; color: var(--quiet); } label > * { display: block; font: inherit; }
input, select, button { font: inherit; padding: .25rem .5rem; }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
code, pre { font: .9em ui-monospace, monospace; background: #8881; padding: .1em .3em; \
border-radius: 3px; }
pre { padding: .8em; overflow-x: auto; }
.quiet { color: var(--quiet); }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(PAGE_STYLE.encode()).digest()).decode()
STYLE_SOURCE = f"'sha256-{_STYLE_HASH}'"
"""Allows this inline style in a policy, and no other."""
_CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {STYLE_SOURCE}; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (
    ("content-security-policy", _CONTENT_SECURITY_POLICY),
    ("referrer-policy", "no-referrer"),
)
"""Headers of every HTML page.

Nothing is loaded except the inline style, and linked sites cannot see the search in `Referer`.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INPUT_TYPES = {"age": "number"}
"""Types of the fields of a form by the kind of the filter; a boolean is a choice."""
_DATA_FORMATS = (("json", "JSON"), ("ndjson", "NDJSON"), ("csv", "CSV"), ("parquet", "Parquet"))

_UPLOAD_FORM = (
    '<form action="/files" method="post" enctype="multipart/form-data">'
    '<label>Add files<input name="file" type="file" multiple required></label>'
    "<button>Upload</button></form>"
)

QueryParameters = Mapping[str, str | list[str]]


def render_page(title: str, body: str) -> bytes:
    """Return a complete HTML page; `title` is plain text, `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def render_rows_page(
    rows: bytes,
    total: int,
    query: RowQuery,
    parameters: QueryParameters,
    columns: Sequence[Column] = COLUMNS,
) -> bytes:
    """Return the page that shows `rows`, a JSON array, out of `total` rows.

    The links and the form on the page keep the query's `parameters`. `columns` are those of a row.
    """
    page_rows: list[dict[str, Any]] = json.loads(rows)
    first = query.paging.offset + 1
    last = query.paging.offset + len(page_rows)
    place = f"{first:,} to {last:,}" if page_rows else "none"
    non_empty = {name: value for name, value in parameters.items() if value}
    sections = [
        "<h1>Rowdrop</h1>",
        '<p><a href="/">The page with live updates</a></p>',
        _render_form(non_empty, [each for column in columns for each in column.filters]),
        f"<p>{place} of {format_count(total, 'user')}</p>",
        _render_page_links(query, total, non_empty),
        _render_table(page_rows, query, non_empty, columns),
        _render_page_links(query, total, non_empty),
        _UPLOAD_FORM,
        _render_footer(non_empty),
    ]
    return render_page("Rowdrop", "\n".join(sections))


def render_stored_page(names: Sequence[str]) -> bytes:
    """Return the page that follows an upload of files by a form."""
    entries = "".join(f"<li>{escape(name)}</li>" for name in names)
    return render_page(
        "Rowdrop",
        f"<h1>Stored</h1><ul>{entries}</ul><p>What follows is shown in a moment: "
        '<a href="/data?format=html">the rows</a>, or <a href="/errors">what is invalid</a>.</p>',
    )


def render_problem_page(title: str, detail: str) -> bytes:
    """Return the page that a browser gets instead of a problem document."""
    return render_page(
        title,
        f"<h1>{escape(title)}</h1><p>{escape(detail)}</p>"
        '<p><a href="/data?format=html">The rows</a></p>',
    )


def _render_form(parameters: QueryParameters, filters: Sequence[Filter]) -> str:
    inputs = [_render_input("q", "Search", "search", 20, parameters)]
    inputs += [_render_filter(each, parameters) for each in filters]
    # A new search must not reset the order, the columns or the page size.
    hidden_inputs = "".join(
        f'<input type="hidden" name="{name}" value="{escape(str(parameters[name]))}">'
        for name in ("sort", "fields", "limit")
        if name in parameters
    )
    hidden_inputs += '<input type="hidden" name="format" value="html">'
    return f'<form action="/data">{"".join(inputs)}{hidden_inputs}<button>Show</button></form>'


def _render_filter(each: Filter, parameters: QueryParameters) -> str:
    title = get_title(each)
    if each.kind != "boolean":
        return _render_input(each.name, title, _INPUT_TYPES[each.kind], 4, parameters)
    choice = str(parameters.get(each.name, "")).lower()
    options = "".join(
        f'<option value="{value}"{" selected" if choice == value else ""}>{escape(text)}</option>'
        for value, text in zip(("", "true", "false"), ("any", *each.choices), strict=True)
    )
    return f'<label>{escape(title)}<select name="{each.name}">{options}</select></label>'


def _render_input(
    name: str, title: str, input_type: str, size: int, parameters: QueryParameters
) -> str:
    value = escape(str(parameters.get(name, "")))
    attributes = f'name="{name}" type="{input_type}" size="{size}" value="{value}"'
    return f"<label>{escape(title)}<input {attributes}></label>"


def _render_page_links(query: RowQuery, total: int, parameters: QueryParameters) -> str:
    offsets = query.paging.list_related_offsets(total)
    page_links = []
    for relation, text in (("prev", "← previous"), ("next", "next →")):
        if relation in offsets:
            target = build_path("/data", parameters, offset=offsets[relation], format="html")
            page_links.append(f'<a href="{escape(target)}">{text}</a>')
    return f"<nav>{''.join(page_links)}</nav>" if page_links else ""


def _render_table(
    page_rows: list[dict[str, Any]],
    query: RowQuery,
    parameters: QueryParameters,
    columns: Sequence[Column],
) -> str:
    key = columns[0].name
    columns_by_name = {column.name: column for column in columns}
    shown = [columns_by_name[name] for name in query.fields or columns_by_name]
    heads = "".join(f"<th>{_render_heading(column, query, parameters)}</th>" for column in shown)
    lines = "".join(f"<tr>{''.join(_render_cells(row, shown, key))}</tr>\n" for row in page_rows)
    return f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody></table>"


def _render_heading(column: Column, query: RowQuery, parameters: QueryParameters) -> str:
    arrow = ""
    next_sort = column.name
    if query.sort[:1] == ((column.name, False),):
        arrow = " ↑"
        next_sort = f"-{column.name}"  # a second click reverses the order
    elif query.sort[:1] == ((column.name, True),):
        arrow = " ↓"
    target = build_path("/data", parameters, sort=next_sort, offset=None, format="html")
    return f'<a href="{escape(target)}">{escape(get_title(column))}</a>{arrow}'


def _render_cells(row: dict[str, Any], columns: Sequence[Column], key: str) -> Iterator[str]:
    row_path = f"/data/{quote(row[key], safe='')}" if key in row else ""
    for column in columns:
        value = row[column.name]
        text = "" if value is None else escape(str(value))
        if column.display == "date" and value is not None:
            yield f'<td title="{value}">{_format_date(value)}</td>'
        elif column.name == key:
            yield f'<td><a href="{row_path}">{text}</a></td>'
        elif column.display == "image" and value and row_path:
            yield f'<td><a href="{row_path}/image">{text}</a></td>'
        else:
            yield f"<td>{text}</td>"


def _format_date(milliseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(milliseconds=milliseconds)).strftime("%d %b %Y").lstrip("0")
    except OverflowError:  # beyond the year 9999: output.csv was edited by hand
        return str(milliseconds)


def _render_footer(parameters: QueryParameters) -> str:
    formats = ", ".join(
        f'<a href="{escape(build_path("/data", parameters, format=format_name))}">{name}</a>'
        for format_name, name in _DATA_FORMATS
    )
    return (
        f'<p class="quiet">As data: {formats}.  More: <a href="/stats">statistics</a>, '
        '<a href="/errors">errors</a>, <a href="/health/ready">health</a>, '
        '<a href="/docs">the API</a>.</p>'
    )
