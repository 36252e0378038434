"""The page at `/` and its files: HTML, CSS and JavaScript modules, sent as they are in `page/`.

The page contains no rows. Its scripts get everything from the other routes, with a token if one is
needed. So these files are sent to every client.
"""

import hashlib
from functools import cache
from pathlib import Path

from falcon.asgi import Request, Response

from api.answers.html_page import STYLE_SOURCE
from api.description.constant_body import ConstantBody
from api.query.parameters import parse_single_values
from api.web.problems import Problem

FOLDER = Path(__file__).with_name("page")
_HTML_NAME = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page shows answers such as the documentation in new tabs. They inherit this policy.
_CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {STYLE_SOURCE}; "
    "img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HTML_HEADERS = (
    ("content-security-policy", _CONTENT_SECURITY_POLICY),
    ("referrer-policy", "no-referrer"),
)
_PRELOAD = b'<link rel="preload" as="fetch" href="/openapi.json" crossorigin>\n'
_IMMUTABLE = "public, max-age=31536000, immutable"


class PageFiles:
    """The files of a folder. `version` is a digest of all of them, and a part of their addresses.

    `{version}` in `index.html` is replaced by it. `preloading_html` is the same page with a request
    for the description of the API, which the browser sends before it runs the scripts. The browser
    sends no token with it, so this page is for clients that need none.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.version = hashlib.sha256(repr(contents).encode()).hexdigest()[:16]
        html = contents.pop(_HTML_NAME).replace(b"{version}", self.version.encode())
        self.html, self.preloading_html = (
            ConstantBody(html.replace(b"{preload}", link), _MEDIA_TYPES[".html"], _HTML_HEADERS)
            for link in (b"", _PRELOAD)
        )
        self.files = {
            name: ConstantBody(body, _MEDIA_TYPES[Path(name).suffix])
            for name, body in contents.items()
        }

    @property
    def gzip_bytes(self) -> int:
        """The compressed size of all files in bytes."""
        return sum(each.gzip_bytes for each in (self.preloading_html, *self.files.values()))


@cache
def load_page_files() -> PageFiles:
    """Return the files of this release; read and compressed once."""
    return PageFiles()


class PageFileResource:
    """GET /page/{version}/{name}."""

    def __init__(self, files: PageFiles) -> None:
        self._files = files

    async def on_get(self, request: Request, response: Response, version: str, name: str) -> None:
        """Respond with a file of the page, which browsers may cache for as long as they like."""
        parse_single_values(request.params, ())
        file = self._files.files.get(name)
        if file is None:
            raise Problem("not-found", f"The page has no file {name[:80]!r}.")
        file.send(request, response)
        # During an upgrade the page may be of another release than this process.
        if version == self._files.version:
            response.set_header("Cache-Control", _IMMUTABLE)

    on_head = on_get
