"""Render rows as an HTML page without scripts or external resources.  Pure."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any
from urllib.parse import quote

from api.links import address
from api.question import Question
from shared.output_csv import COLUMNS

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --link: #06c; }
@media (prefers-color-scheme: dark) { :root { --link: #6bf; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
form { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; align-items: end; }
label { font-size: .8rem; color: var(--quiet); } label > * { display: block; font: inherit; }
input, select, button { font: inherit; padding: .25rem .5rem; }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
code, pre { font: .9em ui-monospace, monospace; background: #8881; padding: .1em .3em; border-radius: 3px; }
pre { padding: .8em; overflow-x: auto; }
.quiet { color: var(--quiet); }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS = (("content-security-policy", _POLICY), ("referrer-policy", "no-referrer"))
"""Headers of every HTML page.

Nothing is loaded except the inline style, and linked sites cannot see the search in `Referer`.
"""

_HEADINGS = {
    "user_id": "User",
    "first_name": "First name",
    "last_name": "Last name",
    "birthts": "Born",
    "img_path": "Image",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AS_DATA = (("json", "JSON"), ("ndjson", "NDJSON"), ("csv", "CSV"), ("parquet", "Parquet"))

Parameters = Mapping[str, str | list[str]]


def html_page(title: str, body: str) -> bytes:
    """Return a complete HTML page; `title` is plain text, `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def rows_page(rows: bytes, total: int, question: Question, parameters: Parameters) -> bytes:
    """Return the page that shows `rows`, a JSON array, out of `total` rows.

    The links and the form on the page keep the query's `parameters`.
    """
    shown: list[dict[str, Any]] = json.loads(rows)
    first, last = question.page.offset + 1, question.page.offset + len(shown)
    count = f"{first:,} to {last:,} of {total:,}" if shown else f"none of {total:,}"
    asked = {name: value for name, value in parameters.items() if value}
    parts = [
        "<h1>Rowdrop</h1>",
        _form(asked),
        f"<p>{count} {'user' if total == 1 else 'users'}</p>",
        _pages(question, total, asked),
        _table(shown, question, asked),
        _pages(question, total, asked),
        _footer(asked),
    ]
    return html_page("Rowdrop", "\n".join(parts))


def _form(asked: Parameters) -> str:
    def field(name: str, label: str, kind: str, size: int) -> str:
        value = escape(str(asked.get(name, "")))
        return f'<label>{label}<input name="{name}" type="{kind}" size="{size}" value="{value}"></label>'

    image = str(asked.get("is_image_exists", "")).lower()
    options = "".join(
        f'<option value="{value}"{" selected" if image == value else ""}>{text}</option>'
        for value, text in (("", "any"), ("true", "with"), ("false", "without"))
    )
    # A new search must not reset the order, the columns or the page size.
    kept = "".join(
        f'<input type="hidden" name="{name}" value="{escape(str(asked[name]))}">'
        for name in ("sort", "fields", "limit")
        if name in asked
    )
    fields = [
        field("q", "Name", "search", 20),
        field("min_age", "From age", "number", 4),
        field("max_age", "To age", "number", 4),
        f'<label>Image<select name="is_image_exists">{options}</select></label>',
    ]
    kept += '<input type="hidden" name="format" value="html">'
    return f'<form action="/data">{"".join(fields)}{kept}<button>Show</button></form>'


def _pages(question: Question, total: int, asked: Parameters) -> str:
    others = question.page.others(total)
    found = [
        f'<a href="{escape(address("/data", asked, offset=others[relation], format="html"))}">{text}</a>'
        for relation, text in (("prev", "← previous"), ("next", "next →"))
        if relation in others
    ]
    return f"<nav>{''.join(found)}</nav>" if found else ""


def _table(shown: list[dict[str, Any]], question: Question, asked: Parameters) -> str:
    fields = question.fields or COLUMNS
    heads = "".join(f"<th>{_heading(name, question, asked)}</th>" for name in fields)
    lines = "".join(f"<tr>{''.join(_cells(row, fields))}</tr>\n" for row in shown)
    return f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody></table>"


def _heading(name: str, question: Question, asked: Parameters) -> str:
    turned = question.order[:1] == ((name, False),)
    arrow = " ↑" if turned else " ↓" if question.order[:1] == ((name, True),) else ""
    target = address("/data", asked, sort=f"-{name}" if turned else name, offset=None, format="html")
    return f'<a href="{escape(target)}">{_HEADINGS[name]}</a>{arrow}'


def _cells(row: dict[str, Any], fields: tuple[str, ...]) -> Iterator[str]:
    for name in fields:
        value = row[name]
        if name == "user_id":
            yield f'<td><a href="/data/{quote(value, safe="")}">{escape(value)}</a></td>'
        elif name == "birthts":
            yield f'<td title="{value}">{_date(value)}</td>'
        elif name == "img_path" and value and "user_id" in row:
            yield f'<td><a href="/data/{quote(row["user_id"], safe="")}/image">{escape(value)}</a></td>'
        else:
            yield f"<td>{escape(value or '')}</td>"


def _date(milliseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(milliseconds=milliseconds)).strftime("%d %B %Y").lstrip("0")
    except OverflowError:  # beyond the year 9999: output.csv was edited by hand
        return str(milliseconds)


def _footer(asked: Parameters) -> str:
    formats = ", ".join(
        f'<a href="{escape(address("/data", asked, format=kind))}">{name}</a>' for kind, name in _AS_DATA
    )
    return (
        f'<p class="quiet">As data: {formats}.  More: <a href="/stats">statistics</a>, <a href="/errors">errors</a>, '
        f'<a href="/health/ready">health</a>, <a href="/docs">the API</a>.</p>'
    )
