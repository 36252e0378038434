"""Endpoint `/docs`: the API documentation as one self-contained HTML page."""

import re
from collections.abc import Iterator
from functools import cache
from html import escape

from falcon.asgi import Request, Response

from api.answers.formats import CONTENT_TYPES
from api.answers.html_page import PAGE_HEADERS, render_page
from api.description.constant_body import ConstantBody
from api.description.openapi import PATHS, Document, find_token
from api.query.parameters import parse_single_values
from api.web.problem_kinds import PLAIN_TYPE, PROBLEM_KINDS, STATUS_EXPLANATIONS
from api.web.problems import get_status_title

_INTRODUCTION = """<h1>Rowdrop: the API</h1>
<p>Rowdrop turns files that are dropped into a bucket into rows. This API returns the rows, and it
accepts files from clients without an S3 client. For programs the same endpoints are described in
<a href="/openapi.json">/openapi.json</a>. In a browser, <a href="/">/</a> shows the rows, and
<a href="/data">/data</a> does so without scripts.</p>
<p>In the examples <code>$api</code> is the address of this API.</p>
<h2 id="tokens">Tokens</h2>
<p>A client is local if it connects to <code>localhost</code> or a loopback address without a proxy
in between, while <code>BIND_ADDRESS</code> is loopback and <code>ALLOWED_HOSTS</code> is not set. A
local client needs no token to read. It needs a write token to write only if the operator has set
<code>API_TOKEN</code> or <code>API_TOKENS</code>.</p>
<p>Every other client sends a token: <code>-H "Authorization: Bearer $token"</code>. Writes (POST,
PUT, DELETE) need a write token: the <code>API_TOKEN</code>, one of the <code>API_TOKENS</code>, or
the generated token. Reads need a write token or one of the <code>READ_TOKENS</code>, and no token
with <code>PUBLIC_READ=true</code>. <code>/health/live</code>, and in a browser the page at
<code>/</code> without its data, need no token. <code>POST /events</code> only accepts the
<code>EVENTS_TOKEN</code>.</p>"""

_TOKEN_SENTENCES = {
    "none": "Token: none.",
    "read": "Token, if the client is not local: read or write.",
    "write": "Token, if the client is not local or the operator has set a write token: write.",
    "events": "Token, from every client: the EVENTS_TOKEN.",
}

_PROBLEMS_HEAD = """<h2 id="problems">Errors</h2>
<p>Each error is an <code>application/problem+json</code> document (RFC 9457). Its <code>type</code>
links to this table, <code>title</code> and <code>status</code> are those of the table, and
<code>detail</code> says what went wrong with this request. A browser gets title and detail as a
page.</p>"""

_PLAIN_PROBLEMS_HEAD = f"""<p>All other errors have the type <code>{PLAIN_TYPE}</code>: the status
says what is wrong.</p>"""


class DocsResource:
    """Endpoint `/docs`."""

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer with the page, which only changes with a new release."""
        parse_single_values(request.params, ())
        _make_docs_body().send(request, response)

    on_head = on_get


@cache
def _make_docs_body() -> ConstantBody:
    return ConstantBody(_render_docs_page(), CONTENT_TYPES["html"], PAGE_HEADERS)


def _render_docs_page() -> bytes:
    routes = "".join(
        _render_route(method.upper(), path, operation, has_anchor=method == next(iter(methods)))
        for path, methods in PATHS.items()
        for method, operation in methods.items()
    )
    return render_page(
        "Rowdrop: the API",
        f"{_INTRODUCTION}\n<nav>{_render_contents()}</nav>\n{routes}\n{_render_problems()}",
    )


def _render_problems() -> str:
    kinds = "".join(
        _render_problem(kind, *problem_kind) for kind, problem_kind in PROBLEM_KINDS.items()
    )
    statuses = "".join(
        _render_problem(f"status-{status}", status, get_status_title(status), explanation)
        for status, explanation in STATUS_EXPLANATIONS.items()
    )
    return (
        f"{_PROBLEMS_HEAD}<table><tbody>{kinds}</tbody></table>\n"
        f"{_PLAIN_PROBLEMS_HEAD}<table><tbody>{statuses}</tbody></table>"
    )


def _render_problem(anchor: str, status: int, title: str, explanation: str) -> str:
    return (
        f'<tr id="{anchor}"><td>{status}</td><td>{escape(title)}</td>'
        f"<td>{_render_code_spans(explanation)}</td></tr>\n"
    )


def _render_contents() -> str:
    return " ".join(f'<a href="#{_make_anchor(path)}">{escape(path)}</a>' for path in PATHS)


def _render_route(method: str, path: str, operation: Document, *, has_anchor: bool) -> str:
    sample = operation["x-codeSamples"][0]["source"]
    anchor = f' id="{_make_anchor(path)}"' if has_anchor else ""
    responses = " ".join(
        f"<b>{status}</b> {escape(response['description'])}"
        for status, response in _list_success_responses(operation)
    )
    return (
        f"<h2{anchor}><code>{method} {escape(path)}</code></h2>\n"
        f"<p>{escape(operation['summary'])}  {_TOKEN_SENTENCES[find_token(operation)]}</p>\n"
        f"<pre>{escape(sample)}</pre>\n{_render_parameters(operation)}"
        f'<p class="quiet">{responses}</p>\n'
    )


def _render_parameters(operation: Document) -> str:
    table_rows = "".join(
        f"<tr><td><code>{parameter['name']}</code></td>"
        f"<td>{escape(parameter['description'])}</td></tr>\n"
        for parameter in operation.get("parameters", ())
    )
    return f"<table><tbody>{table_rows}</tbody></table>\n" if table_rows else ""


def _list_success_responses(operation: Document) -> Iterator[tuple[str, Document]]:
    """Return the status codes and descriptions of the responses that are not errors."""
    return (
        (status, response) for status, response in operation["responses"].items() if status < "400"
    )


def _make_anchor(path: str) -> str:
    return "route-" + (re.sub(r"\W+", "-", path).strip("-") or "index")


def _render_code_spans(text: str) -> str:
    """Return a text as HTML, with `code` between backquotes as an element."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
