"""The card of one row: it follows the row, and its buttons change the files."""

import pytest
from minio import Minio
from playwright.sync_api import Locator, expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA, HEADER, PNG
from tests.system.test_a_users_day import put


@pytest.fixture
def page(open_tab: OpenPage) -> RowdropPage:
    """Return a tab that shows the card of a row."""
    page = open_tab()
    page.drop(("ada.csv", ADA))
    page.row("ada").click()
    expect(page.find("#detail .file")).to_have_count(1)
    return page


@pytest.fixture
def card(page: RowdropPage) -> Locator:
    return page.find("#detail")


def expect_gone(page: RowdropPage) -> None:
    card = page.find("#detail")
    expect(card).to_contain_text("This row is gone.")
    expect(card.locator(".card-body")).to_be_hidden()
    expect(card.get_by_role("button", name="Read again")).to_be_hidden()
    expect(card).to_contain_text("a valid row")  # its history stays
    # The browser itself reports that the row is not found.
    page.complaints = [each for each in page.complaints if "404" not in each]


def test_card_follows_its_row(page: RowdropPage, card: Locator, s3: Minio) -> None:
    put(s3, "ada.csv", f"{HEADER}Ada,King,-4861728000000\n".encode())  # by another client
    expect(card).to_contain_text("King")
    card.get_by_role("button", name="Read again").click()
    expect(card).to_contain_text("Read just now.")
    s3.remove_object("src-data", "ada.csv")
    expect_gone(page)
    put(s3, "ada.csv", ADA.encode())
    expect(card.locator(".card-body")).to_contain_text("Lovelace")


def test_rejected_replacement_says_why_on_the_card(page: RowdropPage, card: Locator) -> None:
    page.choose_file(card.get_by_role("button", name="Replace").first, "ada.csv", "nothing\n")
    expect(card.locator(".file")).to_contain_text("rejected: line 1")
    expect(card.locator(".card-body")).to_contain_text("Lovelace")  # the last valid row stays


def test_picture_is_added_replaced_and_deleted_with_its_row(
    page: RowdropPage, card: Locator, s3: Minio
) -> None:
    def list_names() -> list[str]:
        return [each.object_name or "" for each in s3.list_objects("src-data")]

    page.choose_file(card.get_by_role("button", name="Add picture"), "me.txt", b"?", "text/plain")
    expect(card).to_contain_text("An image of the type txt is not read.")
    page.choose_file(card.get_by_role("button", name="Add picture"), "me.JPG", PNG, "image/jpeg")
    expect(card.locator("img")).to_be_visible()
    assert list_names() == ["ada.csv", "ada.jpg"]
    page.choose_file(card.get_by_role("button", name="Replace picture"), "i.png", PNG, "image/png")
    expect(card.locator(".file .name")).to_have_text(["ada.csv", "ada.png"])
    assert list_names() == ["ada.csv", "ada.png"]
    card.get_by_role("button", name="Delete this row").click()
    expect(page.find("dialog.ask")).to_contain_text("ada.png")
    page.answer("Delete")
    expect_gone(page)
    assert list_names() == []
    expect(page.find("#detail-title")).to_be_focused()


def test_row_that_is_gone_is_not_requested_again(
    page: RowdropPage, card: Locator, s3: Minio
) -> None:
    s3.remove_object("src-data", "ada.csv")
    expect_gone(page)
    with page.tab.expect_response("**/data?*q=ada"):
        put(s3, "bob.csv", f"{HEADER}Bob,King,0\n".encode())
    expect(page.row("bob")).to_be_visible()
    assert page.complaints == []
    put(s3, "ada.csv", ADA.encode())
    expect(card.locator(".card-body")).to_contain_text("Lovelace")


def test_focus_is_on_the_table_heading_without_rows(
    page: RowdropPage, card: Locator, s3: Minio
) -> None:
    s3.remove_object("src-data", "ada.csv")
    expect_gone(page)
    expect(page.find("#table")).to_be_hidden()
    page.tab.keyboard.press("Escape")
    expect(page.find("#rows-title")).to_be_focused()
