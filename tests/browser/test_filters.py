"""The filters of the table: their inputs, the address and the history of the browser."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api_process import ONE_ROW_CSV, ApiEnvironment, wait_until
from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA

_TYPE_AND_PRESS = """(selector) => {
    const input = document.getElementById("filter-q");
    input.value = "a";
    input.dispatchEvent(new Event("input", {bubbles: true}));
    document.querySelector(selector).click();
}"""


@pytest.fixture
def page(open_tab: OpenPage) -> RowdropPage:
    """Return a tab that shows two rows: ada and bob."""
    page = open_tab()
    page.drop(("ada.csv", ADA), ("bob.csv", ADA))
    expect(page.rows).to_have_count(2)
    return page


def count_entries(tab: Page) -> int:
    count: int = tab.evaluate("() => history.length")
    return count


def get_query(page: RowdropPage) -> str:
    return urlsplit(page.tab.url).query


def test_back_empties_the_focused_input(page: RowdropPage) -> None:
    """All edits of one input are one entry of the history."""
    search = page.tab.get_by_label("Search")
    before = count_entries(page.tab)
    for text in ("b", "bo", "bob"):
        search.fill(text)
        page.tab.wait_for_url(f"**/?q={text}")
    expect(page.rows).to_have_count(1)
    assert count_entries(page.tab) == before + 1
    page.tab.go_back()
    expect(page.rows).to_have_count(2)
    expect(search).to_be_focused()
    expect(search).to_have_value("")
    page.tab.keyboard.type("bo")
    page.tab.wait_for_url("**/?q=bo")
    expect(page.rows).to_have_count(1)
    page.tab.go_back()
    page.tab.wait_for_url("**/")


@pytest.mark.parametrize("value", ["True", "1", "FALSE", "0"])
def test_other_spelling_of_a_choice_is_shown_and_kept(page: RowdropPage, value: str) -> None:
    page.open(f"/?is_image_exists={value}")
    expected = "true" if value in {"True", "1"} else "false"
    expect(page.find("#filters").get_by_label("Image")).to_have_value(expected)
    page.tab.get_by_label("Search").fill("a")
    page.tab.wait_for_url(f"**/?is_image_exists={expected}&q=a")


def test_order_without_an_option_is_shown_and_kept(page: RowdropPage) -> None:
    order = "last_name,-birthts"
    page.open(f"/?sort={order}")
    expect(page.find("#filter-sort")).to_have_value(order)
    page.tab.get_by_label("Search").fill("a")
    page.tab.wait_for_url("**/?*q=a*")
    assert "last_name%2C-birthts" in get_query(page)
    page.button("Clear").click()
    page.tab.wait_for_url("**/")
    expect(page.find("#filter-sort")).to_have_value("")


def test_invalid_order_is_shown_and_cleared(page: RowdropPage) -> None:
    page.open("/?sort=nope")
    expect(page.find("#filter-error")).to_contain_text("sort")
    expect(page.find("#filter-sort")).to_have_value("nope")
    page.button("Clear").click()
    expect(page.rows).to_have_count(2)
    expect(page.button("Clear")).to_be_hidden()
    page.complaints = [each for each in page.complaints if "status of 400" not in each]


def test_link_to_a_part_of_the_page_loads_no_rows(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    """Nothing changes this table, so no other reason leads to a request for rows."""
    bare_api.store.put("output.csv", ONE_ROW_CSV + b"0002,Bob,Lee,0,\n")
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = RowdropPage(browser, f"http://127.0.0.1:{bare_api.api.port}").open()
        page.tab.get_by_label("Search").fill("bob")
        page.tab.wait_for_url("**/?q=bob")
        expect(page.rows).to_have_count(1)
        requests: list[str] = []
        page.tab.on("request", lambda request: requests.append(request.url))
        page.tab.get_by_role("link", name="Downloads").click()
        page.tab.wait_for_url("**#downloads")
        page.tab.evaluate("() => new Promise(requestAnimationFrame)")
        assert not [each for each in requests if "/data?" in each and "q=bob" in each]
        expect(page.tab.get_by_label("Search")).to_have_value("bob")
        page.complaints = [each for each in page.complaints if "503" not in each]
        page.close()


@pytest.mark.parametrize(
    ("selector", "name"),
    [("#histogram .bars button:last-of-type", "min_age"), (".head .date button", "sort")],
)
def test_text_typed_before_a_press_is_kept(page: RowdropPage, selector: str, name: str) -> None:
    expect(page.find("#histogram .bars button").first).to_be_visible()
    page.tab.evaluate(_TYPE_AND_PRESS, selector)
    page.tab.wait_for_url(f"**/?*{name}=*")
    assert "q=a" in get_query(page)
    expect(page.tab.get_by_label("Search")).to_have_value("a")


def test_minimum_above_the_maximum_is_explained(page: RowdropPage) -> None:
    conflict = page.tab.get_by_text("From age is above To age.")
    page.tab.get_by_label("From age").fill("50")
    page.tab.get_by_label("To age").fill("20")
    expect(conflict).to_be_visible()
    page.tab.get_by_label("To age").fill("60")
    expect(conflict).to_be_hidden()
