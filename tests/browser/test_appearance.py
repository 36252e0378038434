"""The page on other screens, and by the rules of accessibility."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA, HEADER

NARROW = {"width": 360, "height": 740}
WIDE = {"width": 1400, "height": 900}
SERIOUS = {"serious", "critical"}
MIN_TARGET_PX = 40
"""Least height of what is pressed with a finger."""

MAX_ENTRY_PX = 400
"""Limit of the height of an upload with long values."""

_HIDDEN_WIDTH = """(element) => element.scrollWidth - element.clientWidth"""
_HEIGHTS = """() => [...document.querySelectorAll("button, .button, input, select, summary")]
    .filter((each) => each.offsetParent && !each.closest(".bars"))
    .map((each) => [each.outerHTML, each.getBoundingClientRect().height])"""


def fill(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA), ("bad.csv", f"{HEADER}Ada,Lovelace,soon\n"))
    expect(page.row("ada")).to_be_visible()
    page.find("#problems").scroll_into_view_if_needed()
    expect(page.problem("bad.csv")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_page_has_no_serious_fault_by_axe(
    open_tab: OpenPage, scheme: str, size: dict[str, int]
) -> None:
    page = open_tab(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    for state in ("empty", "filled", "detail"):
        if state == "filled":
            fill(page)
        if state == "detail":
            page.row("ada").click()
            expect(page.find("#detail .file")).to_have_count(1)
        found = Axe().run(page.tab).response["violations"]
        faults = [
            f"{each['id']}: {node['html'][:200]} {node['any'][:1]}"
            for each in found
            if each["impact"] in SERIOUS
            for node in each["nodes"]
        ]
        assert faults == [], f"{state}, {scheme}"


def test_narrow_page_needs_no_sideways_scrolling(open_tab: OpenPage) -> None:
    page = open_tab(viewport=NARROW)
    fill(page)
    assert page.tab.evaluate("() => document.documentElement.scrollWidth") == NARROW["width"]
    expect(page.tab.get_by_label("Order")).to_be_visible()
    page.row("ada").click()
    expect(page.find("#detail .card-body .fields")).to_be_visible()
    assert page.tab.evaluate("() => document.documentElement.scrollWidth") == NARROW["width"]
    heights = page.tab.evaluate(_HEIGHTS)
    assert [text for text, height in heights if height < MIN_TARGET_PX] == []


def test_device_without_mouse_is_not_asked_to_drop(open_tab: OpenPage) -> None:
    page = open_tab(viewport=NARROW, has_touch=True, is_mobile=True)
    expect(page.find("#drop-title")).to_have_text("Add your first file")


def test_dark_page_is_dark(open_tab: OpenPage) -> None:
    def measure_brightness(scheme: str) -> int:
        page = open_tab(color_scheme=scheme)
        colour = page.tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))

    assert measure_brightness("dark") < 150
    assert measure_brightness("light") > 600


def test_page_without_scripts_shows_rows_and_filters(open_tab: OpenPage, browser: Browser) -> None:
    page = open_tab()
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    plain = RowdropPage(browser, page.address, java_script_enabled=False)
    plain.tab.goto(plain.address)
    plain.tab.wait_for_url("**/data?format=html")
    expect(plain.find("tbody tr")).to_contain_text("Lovelace")
    plain.tab.get_by_label("To age").fill("1")
    plain.tab.get_by_role("button", name="Show").click()
    expect(plain.find("tbody tr")).to_have_count(0)
    # The form is a part of the page, too.
    file: FilePayload = {"name": "bob.csv", "mimeType": "text/csv", "buffer": ADA.encode()}
    plain.tab.goto(f"{plain.address}/data?format=html")
    plain.tab.get_by_label("Add files").set_input_files([file])
    plain.tab.get_by_role("button", name="Upload").click()
    expect(plain.find("li")).to_have_text("bob.csv")
    expect(page.row("bob")).to_be_visible()
    plain.close()


@pytest.mark.parametrize(("size", "length"), [(NARROW, 64), (WIDE, 240)], ids=["narrow", "wide"])
def test_long_names_and_values_need_no_sideways_scrolling(
    open_tab: OpenPage, size: dict[str, int], length: int
) -> None:
    page = open_tab(viewport=size)
    key = length * "f"
    page.drop((f"{key}.csv", f"{HEADER}Ada,{5000 * 'x'},0\n"))
    expect(page.upload(key)).to_contain_text("Ada")
    assert page.find("#upload-list").evaluate(_HIDDEN_WIDTH) == 0
    box = page.upload(key).bounding_box()
    assert box
    assert box["height"] < MAX_ENTRY_PX
    page.row(key).click()
    expect(page.find("#detail .file")).to_have_count(1)
    assert page.find("#detail").evaluate(_HIDDEN_WIDTH) == 0
    expect(page.find("#detail").get_by_role("button", name="Close")).to_be_in_viewport(ratio=1)


def test_print_says_where_all_rows_are(page: RowdropPage) -> None:
    note = page.tab.get_by_text("Only the rows in view are printed.")
    expect(note).to_be_hidden()
    page.tab.emulate_media(media="print")
    expect(note).to_be_visible()
