"""What stays in place while rows arrive: the header, the view, the images and the keyboard."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from minio import Minio
from playwright.sync_api import expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA, FRESH, PNG
from tests.system.running import RunShProcess, wait_until
from tests.system.test_a_users_day import put

ROW_COUNT = 30
LOW = {"width": 1100, "height": 500}

_SCROLL_TO = """(top) => { document.querySelector(".scroller").scrollTop = top; }"""
_DRAW_OFTEN = """() => { setInterval(
    () => document.querySelector(".scroller").dispatchEvent(new Event("scroll")), 2); }"""
_TOP_OF = """(key) => [...document.querySelectorAll(".body .row")]
    .find((row) => !row.hidden && row.textContent.includes(key))?.getBoundingClientRect().top"""


@pytest.fixture
def page(open_tab: OpenPage, rowdrop: RunShProcess, s3: Minio) -> RowdropPage:
    """Return a tab with more rows than it can show, 100 to 129; each third one has an image."""
    for number in range(100, 100 + ROW_COUNT):
        put(s3, f"{number}.csv", ADA.encode())
        if number % 3 == 0:
            s3.put_object("src-data", f"{number}.png", io.BytesIO(PNG), len(PNG))
    wait_until(lambda: len(json.loads(rowdrop.get("/data")[1])) == ROW_COUNT)
    wait_until(lambda: len(json.loads(rowdrop.get("/data?is_image_exists=true")[1])) == 10)
    page = open_tab(viewport=LOW)
    page.find("#table").scroll_into_view_if_needed()
    return page


def add_row(page: RowdropPage, s3: Minio, key: str, count: int) -> None:
    """Add a row by another client, and wait until the page shows the new number of rows."""
    put(s3, f"{key}.csv", ADA.encode())
    expect(page.find("#row-count")).to_have_text(str(count))


def test_dropped_row_out_of_view_is_shown_while_the_table_is_drawn(
    open_tab: OpenPage, rowdrop: RunShProcess, s3: Minio, tmp_path: Path
) -> None:
    """Rows out of view are not loaded, apart from those around the row."""
    bundle = tmp_path / "people.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        for number in range(1000, 1450):
            archive.writestr(f"{number}.csv", ADA)
    s3.fput_object("src-data", bundle.name, str(bundle))
    wait_until(lambda: len(json.loads(rowdrop.get("/data")[1])) == 450)
    page = open_tab(viewport=LOW)
    page.tab.evaluate(_DRAW_OFTEN)
    page.drop(("1440.csv", ADA.replace("Ada", "Augusta")))
    expect(page.row("1440")).to_have_class(FRESH)


def test_header_stays_while_rows_scroll(page: RowdropPage) -> None:
    for width in (LOW["width"], 700):
        page.tab.set_viewport_size({"width": width, "height": LOW["height"]})
        page.find("#table").scroll_into_view_if_needed()
        page.tab.evaluate(_SCROLL_TO, 500)
        expect(page.row("111")).to_be_visible()
        head = page.find(".head").bounding_box()
        table = page.find("#table").bounding_box()
        assert head
        assert table
        assert head["y"] == pytest.approx(table["y"], abs=2), width


def test_view_stays_when_a_row_is_inserted_above(page: RowdropPage, s3: Minio) -> None:
    page.tab.evaluate(_SCROLL_TO, 450)
    expect(page.row("114")).to_be_visible()
    top = page.tab.evaluate(_TOP_OF, "114")
    add_row(page, s3, "050", ROW_COUNT + 1)
    assert page.tab.evaluate(_TOP_OF, "114") == pytest.approx(top, abs=1)


def test_row_inserted_at_the_top_is_shown_and_moves_images(page: RowdropPage, s3: Minio) -> None:
    image = page.row("102").locator("canvas")
    expect(image).to_be_visible()
    element = image.element_handle()
    add_row(page, s3, "000", ROW_COUNT + 1)
    expect(page.row("000")).to_have_class(FRESH)
    expect(page.row("000")).to_be_in_viewport()
    assert page.tab.evaluate("() => document.querySelector('.scroller').scrollTop") == 0
    # The image is not loaded again.
    assert image.evaluate("(now, before) => now === before", element)


def test_headings_are_reached_and_used_by_keyboard(page: RowdropPage, s3: Minio) -> None:
    grid = page.tab.get_by_role("grid")
    grid.focus()
    page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Tab")
    heading = page.find(".head").get_by_role("button", name="Sort by User")
    expect(heading).to_be_focused()
    expect(page.find(".head [aria-sort=ascending]")).to_contain_text("User")
    page.tab.keyboard.press("Enter")
    expect(page.find(".head [aria-sort=descending]")).to_contain_text("User")
    expect(page.row("129")).to_be_in_viewport()
    add_row(page, s3, "999", ROW_COUNT + 1)
    expect(heading).to_be_focused()
    # The active row stays the same one: the first one is now the second one.
    page.tab.keyboard.press("Shift+Tab")
    page.tab.keyboard.press("Shift+Tab")
    active = page.find(".body .row.active")
    expect(active).to_contain_text("129")
    page.tab.keyboard.press("ArrowDown")
    expect(active).to_contain_text("128")
    add_row(page, s3, "998", ROW_COUNT + 2)
    expect(active).to_contain_text("128")
    expect(grid).to_have_attribute("aria-activedescendant", active.get_attribute("id") or "")


def test_bar_keeps_the_keyboard_when_rows_arrive(page: RowdropPage, s3: Minio) -> None:
    bar = page.find("#histogram .bars button:focus")
    page.find("#histogram .bars button").last.focus()
    before = bar.get_attribute("aria-label") or ""
    add_row(page, s3, "000", ROW_COUNT + 1)
    expect(bar).not_to_have_attribute("aria-label", before)
    assert before.split(":")[0] in (bar.get_attribute("aria-label") or "")


def test_filters_do_not_move_while_they_are_used(page: RowdropPage) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    field = page.tab.get_by_label("From age")

    def measure_left() -> float:
        box = field.bounding_box()
        assert box
        return box["x"]

    before = measure_left()
    field.fill("20")
    expect(page.button("Clear")).to_be_visible()
    assert measure_left() == pytest.approx(before, abs=1)
    page.button("Copy as curl").click()
    expect(page.button("Copied")).to_be_visible()
    assert measure_left() == pytest.approx(before, abs=1)
