"""The page at `/`: who gets it, how it is cached, and what its files must not contain."""

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.answers.html_page import STYLE_SOURCE, render_rows_page
from api.description.page_files import FOLDER, PageFiles, load_page_files
from api.query.row_query import RowQuery
from shared.formats.records import COLUMNS
from shared.tokens import Token, TokenKind
from tests.unit.test_api_openapi import COLOUR_COLUMNS
from tests.unit.test_api_routes import Service

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
NAME = "rowdrop.example.org"
REMOTE = "10.0.0.1"
MAX_PAGE_BYTES = 50_000
"""Limit of all files of the page, compressed."""
MIN_BORDER_CONTRAST = 3
"""Least contrast of what shows where a field is (WCAG 2.2, 1.4.11)."""
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
READER = Token("reader", "a-token-for-reading", TokenKind.READ)
each_script = pytest.mark.parametrize("name", SCRIPTS)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


@pytest.fixture
def guarded_service() -> Iterator[Service]:
    """Return the application as clients on other machines see it."""
    service = Service(AuthMiddleware(AccessRules(bind_address="0.0.0.0")))  # noqa: S104
    yield service
    service.redis.close()


# -- the routes ------------------------------------------------------------------------------------
def test_page_is_sent_to_browsers_only(service: Service) -> None:
    page = service.get("/", Accept=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json", "nonsense"):
        assert service.get("/", Accept=accept).json["service"] == "Rowdrop"
    assert service.get("/").json["service"] == "Rowdrop"
    assert "Accept" in page.headers["vary"]


def test_page_reads_the_query_string_itself(service: Service) -> None:
    assert service.get("/?min_age=18&anything=1", Accept=BROWSER).status_code == 200
    assert service.get("/?min_age=18").status_code == 400


def test_page_sends_browsers_without_scripts_to_the_same_rows(service: Service) -> None:
    def find_target(query: str) -> str:
        collector = ElementCollector()
        collector.feed(service.get(f"/{query}", Accept=BROWSER).text)
        contents = (attributes.get("content") for name, attributes in collector.elements)
        return next(content for content in contents if content and "url=" in content)

    assert find_target("") == find_target("?anything=1&q=a&q=b") == "0; url=/data?format=html"
    target = find_target("?min_age=40&q=%22%3E%3Cb%20%26%27%C3%AB&sort=&format=csv&anything=1")
    assert target == "0; url=/data?min_age=40&q=%22%3E%3Cb+%26%27%C3%AB&sort=&format=html"


def test_page_with_filters_keeps_its_other_links(service: Service) -> None:
    def list_links(query: str) -> list[str | None]:
        collector = ElementCollector()
        collector.feed(service.get(f"/{query}", Accept=BROWSER).text)
        return [attributes.get("href") for _, attributes in collector.elements]

    assert list_links("?q=a&limit=5") == list_links("")


def test_page_with_filters_is_revalidated_and_compressed(service: Service) -> None:
    page = service.get("/?q=a", Accept=BROWSER, Accept_Encoding="gzip")
    assert gzip.decompress(page.content) == service.get("/?q=a", Accept=BROWSER).content
    for query, status in (("?q=a", 304), ("?q=b", 200), ("", 200)):
        again = service.get(
            f"/{query}",
            Accept=BROWSER,
            Accept_Encoding="gzip",
            If_None_Match=page.headers["etag"],
        )
        assert (again.status_code, again.headers["cache-control"]) == (status, "no-cache")


def test_page_has_strict_content_security_policy(service: Service) -> None:
    policy = service.get("/", Accept=BROWSER).headers["content-security-policy"]
    assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": f"'self' {STYLE_SOURCE}",  # the style of answers that it opens
        "img-src": "'self' blob:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_page_is_revalidated_and_compressed(service: Service) -> None:
    page = service.get("/", Accept=BROWSER, Accept_Encoding="gzip")
    assert gzip.decompress(page.content) == service.get("/", Accept=BROWSER).content
    again = service.get(
        "/", Accept=BROWSER, Accept_Encoding="gzip", If_None_Match=page.headers["etag"]
    )
    assert (again.status_code, again.content) == (304, b"")
    assert page.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/docs", "/data?format=html"])
def test_page_keeps_its_policy_when_it_is_revalidated(service: Service, path: str) -> None:
    """A browser replaces the headers of the page that it has by those of a 304."""
    page = service.get(path, Accept=BROWSER)
    again = service.get(path, Accept=BROWSER, If_None_Match=page.headers["etag"])
    assert again.status_code == 304
    policy = page.headers["content-security-policy"]
    assert again.headers.get("content-security-policy", policy) == policy


def test_page_files_are_immutable_by_version(service: Service) -> None:
    addresses = re.findall(r'(?:src|href)="(/page/[^"]+)"', service.get("/", Accept=BROWSER).text)
    assert len(addresses) > len(SCRIPTS)
    for address in addresses:
        file = service.get(address)
        assert file.status_code == 200
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    other_release = service.get("/page/0123/main.js")
    assert other_release.headers["cache-control"] == "no-cache"
    assert other_release.headers["content-type"] == "text/javascript; charset=utf-8"
    assert service.get("/page/0123/nothing.js").status_code == 404
    assert service.get("/page/0123/index.html").status_code == 404


def test_page_version_follows_from_all_files(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{version}")
    (tmp_path / "a.js").write_text("1")
    first = PageFiles(tmp_path)
    assert first.html.body.decode() == first.version
    (tmp_path / "a.js").write_text("2")
    assert PageFiles(tmp_path).version != first.version


def test_page_needs_no_token_but_its_data_does(guarded_service: Service) -> None:
    assert guarded_service.get("/", Accept=BROWSER, Host="10.0.0.1").status_code == 200
    assert guarded_service.get("/page/1/main.js", Host="10.0.0.1").status_code == 200
    for path in ("/", "/openapi.json", "/data", "/changes"):
        assert guarded_service.get(path, Host="10.0.0.1").status_code == 403
    post = guarded_service.client.simulate_post(
        "/", headers={"Accept": BROWSER, "Host": "10.0.0.1"}
    )
    assert post.status_code == 403


@pytest.mark.parametrize(
    ("rules", "host", "authorization", "is_early"),
    [
        (AccessRules(), "127.0.0.1", None, True),
        (AccessRules(bind_address="0.0.0.0", public_read=True), REMOTE, None, True),  # noqa: S104
        (AccessRules(allowed_hosts=(NAME,)), REMOTE, None, False),
        (AccessRules(tokens=(READER,)), REMOTE, None, False),
        (AccessRules(tokens=(READER,)), REMOTE, f"Bearer {READER.value}", False),
        (AccessRules(tokens=(READER,)), "127.0.0.1", "Bearer another", False),
    ],
)
def test_page_asks_early_for_the_description_if_no_token_is_needed(
    rules: AccessRules, host: str, authorization: str | None, is_early: bool
) -> None:
    service = Service(AuthMiddleware(rules))
    token = {"Authorization": authorization} if authorization else {}
    page = service.get("/", Accept=BROWSER, Host=host, **token)
    link = '<link rel="preload" as="fetch" href="/openapi.json" crossorigin>\n'
    assert (page.status_code, link in page.text) == (200, is_early)
    assert page.text.replace(link, "").encode() == load_page_files().html.body
    service.redis.close()


def test_openapi_route_is_compressed(service: Service) -> None:
    packed = service.get("/openapi.json", Accept_Encoding="gzip")
    assert json.loads(gzip.decompress(packed.content)) == service.get("/openapi.json").json
    assert len(packed.content) < 15_000
    assert packed.headers["etag"] != service.get("/openapi.json").headers["etag"]


# -- the files -------------------------------------------------------------------------------------
def test_page_is_small() -> None:
    assert load_page_files().gzip_bytes < MAX_PAGE_BYTES


class ElementCollector(HTMLParser):
    """Collects the elements of a page, with their attributes and the text inside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline_texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] in {"script", "style"} and data.strip():
            self.inline_texts.append(data)


def test_page_has_no_inline_script_or_style() -> None:
    collector = ElementCollector()
    collector.feed(FILES["index.html"])
    assert collector.inline_texts == []
    assert all(tag != "style" for tag, _ in collector.elements)
    names = {name for _, attributes in collector.elements for name in attributes}
    assert [name for name in names if name == "style" or name.startswith("on")] == []


@pytest.mark.parametrize("name", FILES)
def test_page_names_no_other_host(name: str) -> None:
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", FILES[name])
    assert [each for each in addresses if "www.w3.org/2000/svg" not in each] == []


@each_script
def test_page_scripts_name_no_column(name: str) -> None:
    """Columns, filters and statistics come from the description; the key is part of the API."""
    names = [column.name for column in COLUMNS[1:]]
    names += [each.name for column in COLUMNS for each in column.filters]
    names += [each.name for column in COLUMNS for each in column.statistics]
    names += [column.title for column in COLUMNS if column.title not in {"", "Image", "User"}]
    text = SCRIPTS[name] + FILES["index.html"] + FILES["style.css"]
    assert [each for each in names if re.search(rf"\b{each}\b", text)] == []


@each_script
def test_page_scripts_use_no_dangerous_function(name: str) -> None:
    """Texts of files and problems are set as text, never as HTML."""
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(dangerous, SCRIPTS[name])


def test_page_preloads_every_module() -> None:
    preloaded = set(
        re.findall(r'modulepreload" href="/page/{version}/([^"]+)"', FILES["index.html"])
    )
    imported = {
        each for text in SCRIPTS.values() for each in re.findall(r'from "\./([^"]+)"', text)
    }
    assert preloaded == imported
    assert imported | {"main.js"} == SCRIPTS.keys()


def test_page_fields_have_visible_borders() -> None:
    """The colours of a theme come first in the style sheet: light, then dark."""
    colours = re.findall(r"--(card|border): #([0-9a-f]+);", FILES["style.css"])
    assert [name for name, _ in colours] == ["card", "border"] * 2
    for (_, card), (_, border) in (colours[:2], colours[2:]):
        darker, lighter = sorted(map(measure_luminance, (card, border)))
        assert (lighter + 0.05) / (darker + 0.05) >= MIN_BORDER_CONTRAST


def measure_luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_page_sends_browsers_without_scripts_to_the_rows() -> None:
    refresh = '<noscript><meta http-equiv="refresh" content="0; url=/data?format=html"></noscript>'
    assert refresh in FILES["index.html"]


# -- the rows as HTML ------------------------------------------------------------------------------
def test_rows_page_follows_another_table_of_columns() -> None:
    rows = json.dumps([{"user_id": "1", "colour": None, "weight": 5}]).encode()
    page = render_rows_page(rows, 1, RowQuery(), {"has_colour": "true"}, COLOUR_COLUMNS).decode()
    assert re.findall(r"<th>.*?>([^<]+)</a>", page) == ["User id", "Paint", "Weight"]
    assert '<td><a href="/data/1">1</a></td><td></td><td>5</td>' in page
    assert '<select name="has_colour">' in page
    assert '<option value="true" selected>painted</option>' in page
    assert '<label>From week<input name="min_weeks" type="number"' in page
    assert "min_age" not in page
