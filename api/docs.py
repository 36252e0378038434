"""GET /docs: the description of the API for people, one page that needs nothing else."""

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
<p>Files that are dropped become rows; this is how to ask for them, and how to drop files without an S3 client.
For programs the same is at <a href="/openapi.json">/openapi.json</a>; <a href="/data">the rows</a> are a page, too.</p>
<p>In the examples <code>$api</code> is this address.</p>
<h2 id="tokens">Who may ask</h2>
<p>A client on the machine itself needs no token: one that asks by <code>localhost</code> or a loopback address, with no
proxy in between, while <code>BIND_ADDRESS</code> is loopback and <code>ALLOWED_HOSTS</code> is not set.  Every other
client sends one: <code>-H "Authorization: Bearer $token"</code>.  Writes (POST, PUT, DELETE) need a write token: the
<code>API_TOKEN</code>, one of the <code>API_TOKENS</code>, or the generated one; once the operator has set one of the
first two, local writes need a token, too.  Reading needs a write token or one of the <code>READ_TOKENS</code>, and none
with <code>PUBLIC_READ=true</code>.  <code>/health/live</code> is open.</p>"""

_TOKENS = {
    "none": "Token: none.",
    "read": "Token, if the client is not local: read or write.",
    "write": "Token, if the client is not local or the operator has set one: write.",
}

_REFUSALS = """<h2 id="problems">What is refused</h2>
<p>Each refusal is <code>application/problem+json</code> (RFC 9457): <code>type</code>, which leads to this table,
<code>title</code>, <code>status</code>, and <code>detail</code>: what went wrong this time.</p>"""


class DocsResource:
    """The page."""

    def on_get(self, request: Request, response: Response) -> None:
        """The same bytes until another release."""
        single_values(request.params, ())
        body = page()
        if not not_modified(request, response, etag_of("docs", body)):
            response.content_type, response.data = MEDIA_TYPES["html"], body
            response.set_headers(HEADERS)

    on_head = on_get


@cache
def page() -> bytes:
    """The page as it is sent."""
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
    """The answers that are no refusals."""
    return ((status, told) for status, told in operation["responses"].items() if status < "400")


def _anchor(path: str) -> str:
    return "route-" + (re.sub(r"\W+", "-", path).strip("-") or "index")


def _prose(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
