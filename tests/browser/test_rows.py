"""The table: filters, order, histogram and detail, with the mouse and the keyboard."""

import io
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
from minio import Minio
from playwright.sync_api import expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import HEADER
from tests.system.running import RunShProcess, wait_until
from tests.system.test_a_users_day import put

YEAR_MS = 31_556_952_000
PEOPLE = {
    "anna": ("Anna", "Young", 2026),
    "bert": ("Bert", "Middle", 1995),
    "carl": ("Carl", "Old", 1960),
}


@pytest.fixture
def page(open_tab: OpenPage, rowdrop: RunShProcess, s3: Minio) -> RowdropPage:
    """Return a tab that shows three people; one of them has an image."""
    for key, (first, last, year) in PEOPLE.items():
        born = (year - 1970) * YEAR_MS
        put(s3, f"{key}.csv", f"{HEADER}{first},{last},{born}\n".encode())
    put(s3, "carl.png", b"\x89PNG\r\n\x1a\n")
    wait_until(lambda: len(json.loads(rowdrop.get("/data")[1])) == 3)
    wait_until(lambda: len(json.loads(rowdrop.get("/data?is_image_exists=true")[1])) == 1)
    return open_tab()


def parameters(page: RowdropPage) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.tab.url).query)


def test_filter_is_a_part_of_the_address(page: RowdropPage, open_tab: OpenPage) -> None:
    page.tab.get_by_label("From age").fill("20")
    expect(page.rows).to_have_count(2)
    expect(page.find("#row-count")).to_have_text("2 match")
    assert parameters(page) == {"min_age": ["20"]}
    page.tab.get_by_label("Search").fill("old")
    expect(page.rows).to_have_count(1)
    expect(page.row("carl")).to_be_visible()
    expect(page.find("#numbers")).to_contain_text("1row matches")
    expect(page.find('#histogram [aria-label="Age 20 to 29: 0"]')).to_be_visible()
    # The address shows the same to everyone, and the back button takes the last filter back.
    other = open_tab(f"/?{urlsplit(page.tab.url).query}")
    expect(other.rows).to_have_count(1)
    expect(other.tab.get_by_label("Search")).to_have_value("old")
    page.tab.go_back()
    expect(page.rows).to_have_count(2)
    page.button("Clear").click()
    expect(page.rows).to_have_count(3)


def test_filter_by_image_and_example_queries(page: RowdropPage) -> None:
    page.find("#filters").get_by_label("Image").select_option("false")
    expect(page.rows).to_have_count(2)
    page.find("#examples a").filter(has_text="min_age=18").click()
    expect(page.rows).to_have_count(2)
    assert parameters(page) == {"min_age": ["18"]}


def test_filter_that_matches_nothing_says_so(page: RowdropPage) -> None:
    page.tab.get_by_label("Search").fill("nobody")
    expect(page.find("#table-empty")).to_have_text("No row matches.")


def test_query_is_copied_as_curl(page: RowdropPage) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.tab.get_by_label("From age").fill("20")
    expect(page.rows).to_have_count(2)
    page.button("Copy as curl").click()
    expect(page.button("Copied")).to_be_visible()
    copied = page.tab.evaluate("() => navigator.clipboard.readText()")
    assert copied == f"curl '{page.address}/data?min_age=20'"


def test_downloads_have_the_filtered_rows_in_each_format(page: RowdropPage) -> None:
    counts: dict[str, Callable[[bytes], int]] = {
        "JSON": lambda body: len(json.loads(body)),
        "NDJSON": lambda body: len(body.splitlines()),
        "CSV": lambda body: len(body.splitlines()) - 1,
        "PARQUET": lambda body: pq.read_table(io.BytesIO(body)).num_rows,
    }
    page.tab.get_by_label("From age").fill("20")
    expect(page.rows).to_have_count(2)
    links = page.find("#download-links a")
    expect(links).to_have_text([*counts])
    for link, count in zip(links.all(), counts.values(), strict=True):
        with page.tab.expect_download() as download:
            link.click()
        assert count(download.value.path().read_bytes()) == 2


def test_heading_sorts_in_both_directions(page: RowdropPage) -> None:
    heading = page.find(".head").get_by_role("button", name="Sort by Born")
    heading.click()
    expect(page.rows.first).to_contain_text("carl")
    expect(page.tab.get_by_role("columnheader", name="Born")).to_have_attribute(
        "aria-sort", "ascending"
    )
    heading.click()
    expect(page.rows.first).to_contain_text("anna")
    assert parameters(page) == {"sort": ["-birthts"]}


def test_bar_of_the_histogram_filters(page: RowdropPage) -> None:
    bars = page.find("#histogram .bars button")
    expect(bars).to_have_count(10)
    counts = [bar.get_attribute("aria-label") or "" for bar in bars.all()]
    assert sum(int(text.split(": ")[1]) for text in counts) == 3
    bars.filter(has_text=re.compile("^60$")).click()
    expect(page.rows).to_have_count(1)
    expect(page.row("carl")).to_be_visible()
    assert parameters(page) == {"min_age": ["60"], "max_age": ["69"]}
    page.button("All").click()
    expect(page.rows).to_have_count(3)


def test_table_is_used_by_keyboard_alone(page: RowdropPage) -> None:
    page.tab.get_by_role("grid").focus()
    page.tab.keyboard.press("ArrowDown")
    page.tab.keyboard.press("Enter")
    expect(page.find("#detail-title")).to_have_text("bert")
    expect(page.find("#detail .card-body .fields")).to_contain_text("Middle")
    page.tab.keyboard.press("Escape")
    expect(page.find("#detail")).to_be_hidden()
    expect(page.tab.get_by_role("grid")).to_be_focused()
    page.tab.keyboard.press("End")
    page.tab.keyboard.press("Enter")
    expect(page.find("#detail-title")).to_have_text("carl")
