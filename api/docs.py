"""Endpoint `/docs`: the API documentation as one self-contained HTML page."""

import re
from collections.abc import Iterator
from functools import cache
from html import escape

from falcon import Request, Response

from api.conditional import etag_of, not_modified
from api.describe import Document, access_of
from api.filters import single_values
from api.formats import MEDIA_TYPES
from api.operations import PATHS
from api.page import HEADERS, html_page
from api.problems import KINDS

_INTRODUCTION = """<h1>Rowdrop: the API</h1>
<p>Rowdrop turns files that are dropped into a bucket into rows. This API returns the rows, and it
accepts files from clients without an S3 client. For programs the same endpoints are described in
<a href="/openapi.json">/openapi.json</a>. In a browser, <a href="/data">/data</a> shows the rows as
a page.</p>
<p>In the examples <code>$api</code> is the address of this API.</p>
<h2 id="tokens">Tokens</h2>
<p>A client is local if it connects to <code>localhost</code> or a loopback address without a proxy
in between, while <code>BIND_ADDRESS</code> is loopback and <code>ALLOWED_HOSTS</code> is not set. A
local client needs no token to read. It needs a write token to write only if the operator has set
<code>API_TOKEN</code> or <code>API_TOKENS</code>.</p>
<p>Every other client sends a token: <code>-H "Authorization: Bearer $token"</code>. Writes (POST,
PUT, DELETE) need a write token: the <code>API_TOKEN</code>, one of the <code>API_TOKENS</code>, or
the generated token. Reads need a write token or one of the <code>READ_TOKENS</code>, and no token
with <code>PUBLIC_READ=true</code>. <code>/health/live</code> needs no token.</p>"""

_TOKENS = {
    "none": "Token: none.",
    "read": "Token, if the client is not local: read or write.",
    "write": "Token, if the client is not local or the operator has set a write token: write.",
}

_REFUSALS = """<h2 id="problems">Errors</h2>
<p>Each error is an <code>application/problem+json</code> document (RFC 9457). Its <code>type</code>
links to this table, <code>title</code> and <code>status</code> are those of the table, and
<code>detail</code> says what went wrong with this request.</p>"""


class DocsResource:
    """Endpoint `/docs`."""

    def on_get(self, request: Request, response: Response) -> None:
        """Answer with the page, which only changes with a new release."""
        single_values(request.params, ())
        body = page()
        if not not_modified(request, response, etag_of("docs", body)):
            response.content_type, response.data = MEDIA_TYPES["html"], body
            response.set_headers(HEADERS)

    on_head = on_get


@cache
def page() -> bytes:
    """Return the page as UTF-8 bytes. It is rendered once per process."""
    operations = ((path, method, told) for path, methods in PATHS.items() for method, told in methods.items())
    routes = "".join(_route(method.upper(), path, told) for path, method, told in operations)
    return html_page("Rowdrop: the API", f"{_INTRODUCTION}\n<nav>{_contents()}</nav>\n{routes}\n{_problems()}")


def _problems() -> str:
    lines = "".join(
        f'<tr id="{kind}"><td>{found.status}</td><td>{escape(found.title)}</td>'
        f"<td>{_prose(found.explanation)}</td></tr>\n"
        for kind, found in KINDS.items()
    )
    return f"{_REFUSALS}<table><tbody>{lines}</tbody></table>"


def _contents() -> str:
    return " ".join(f'<a href="#{_anchor(path)}">{escape(path)}</a>' for path in PATHS)


def _route(method: str, path: str, operation: Document) -> str:
    sample = operation["x-codeSamples"][0]["source"]
    anchor = f' id="{_anchor(path)}"' if method == "GET" else ""
    answers = " ".join(f"<b>{status}</b> {escape(told['description'])}" for status, told in _own(operation))
    return (
        f"<h2{anchor}><code>{method} {escape(path)}</code></h2>\n"
        f"<p>{escape(operation['summary'])}  {_TOKENS[access_of(operation)]}</p>\n"
        f'<pre>{escape(sample)}</pre>\n{_parameters(operation)}<p class="quiet">{answers}</p>\n'
    )


def _parameters(operation: Document) -> str:
    lines = "".join(
        f"<tr><td><code>{parameter['name']}</code></td><td>{escape(parameter['description'])}</td></tr>\n"
        for parameter in operation.get("parameters", ())
    )
    return f"<table><tbody>{lines}</tbody></table>\n" if lines else ""


def _own(operation: Document) -> Iterator[tuple[str, Document]]:
    """Return the status codes and descriptions of the responses that are not errors."""
    return ((status, told) for status, told in operation["responses"].items() if status < "400")


def _anchor(path: str) -> str:
    return "route-" + (re.sub(r"\W+", "-", path).strip("-") or "index")


def _prose(text: str) -> str:
    """Return a text as HTML, with `code` between backquotes as an element."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
