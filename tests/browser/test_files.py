"""The list of files in the bucket, and names of files that are not uploaded."""

import pytest
from minio import Minio
from playwright.sync_api import Route, expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA
from tests.system.test_a_users_day import put

PAGE = 20


@pytest.fixture
def page(open_tab: OpenPage, s3: Minio) -> RowdropPage:
    """Return a tab that lists 21 files, which are ignored: the last one is on a second page."""
    for number in range(PAGE + 1):
        put(s3, f"u{number:03}.txt", b"a text")
    page = open_tab()
    page.find("#files").scroll_into_view_if_needed()
    expect(page.find("#file-list .file")).to_have_count(PAGE)
    return page


def test_page_before_is_listed_when_the_last_file_is_deleted(page: RowdropPage) -> None:
    page.find("#file-list").get_by_role("button", name="Next").click()
    expect(page.find("#file-list .file")).to_have_count(1)
    page.find("#file-list .file").get_by_role("button", name="Delete").click()
    page.answer("Delete")
    expect(page.find("#file-list .file")).to_have_count(PAGE)
    expect(page.find("#file-list").get_by_role("button", name="Previous")).to_be_disabled()


def test_older_answer_does_not_replace_the_list(page: RowdropPage) -> None:
    waiting: list[Route] = []
    page.tab.route("**/files?*prefix=u00", lambda route: waiting.append(route))  # noqa: PLW0108
    prefix = page.tab.get_by_label("Name begins with")
    with page.tab.expect_request("**/files?*prefix=u00"):
        prefix.fill("u00")
    prefix.fill("u02")
    expect(page.find("#file-list .file")).to_have_count(1)
    with page.tab.expect_event("requestfinished", lambda sent: sent.url.endswith("prefix=u00")):
        waiting[0].continue_()
    page.tab.evaluate("() => fetch('/health/live').then((answer) => answer.text())")
    # Not expect(): the list is loaded again soon, for other reasons.
    assert page.find("#file-list .file").count() == 1


def test_dropped_file_with_an_ignored_name_says_so(open_tab: OpenPage) -> None:
    page = open_tab()
    names = ["a\x01b.csv", "~$x.csv", "~$x.tar.gz"]
    page.drop(*((name, ADA) for name in names))
    expect(page.find("#upload-list > li")).to_have_count(len(names))
    for entry in page.find("#upload-list > li").all():
        expect(entry).to_contain_text("a file with such a name would be ignored")
