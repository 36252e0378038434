"""What changes on the page without a reload."""

import json
import re

from minio import Minio
from playwright.sync_api import expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA
from tests.system.running import RunShProcess, wait_until
from tests.system.test_a_users_day import put


def test_two_tabs_see_the_same(open_tab: OpenPage) -> None:
    one = open_tab()
    other = open_tab()
    one.drop(("ada.csv", ADA))
    expect(other.row("ada")).to_be_visible()
    expect(other.find("#numbers")).to_contain_text(re.compile(r"1row(?!s)"))
    other.drop(("bad.csv", "nothing\n"))
    expect(one.problem("bad.csv")).to_be_visible()


def test_rebuild_shows_its_progress_to_the_end(
    open_tab: OpenPage, rowdrop: RunShProcess, s3: Minio
) -> None:
    for number in range(30):
        put(s3, f"{number:04}.csv", ADA.encode())
    wait_until(lambda: len(json.loads(rowdrop.get("/data")[1])) == 30)
    page = open_tab()
    page.button("Rebuild").click()
    expect(page.find("#rebuild")).to_contain_text("Rebuilt 30 in")
    expect(page.find("#rebuild progress")).to_have_js_property("value", 1)
    expect(page.button("Rebuild")).to_be_enabled()
    task = page.find("#task-list li").first
    expect(task).to_contain_text("Requested rebuild")
    expect(task).to_contain_text(re.compile("done30 of 30 · took .+(ago|just now)"))
    expect(page.find("#task-list li").filter(has_text="Sweep")).to_contain_text("start")


def test_page_links_to_what_runs(page: RowdropPage, rowdrop: RunShProcess) -> None:
    links = page.find("#links a")
    flower = f"http://127.0.0.1:{rowdrop.credentials['FLOWER_PORT']}"
    expect(links.filter(has_text="Flower")).to_have_attribute("href", flower)
    expect(links.filter(has_text="console")).to_have_count(0)  # it was not started
    for path in links.evaluate_all("(all) => all.map((each) => each.getAttribute('href'))"):
        assert path == flower or rowdrop.get(path)[0] == 200


def test_health_is_shown_in_words_and_colour(page: RowdropPage) -> None:
    expect(page.find("#health")).to_have_text("Live and up to date")
    expect(page.find("#health")).to_have_class("pill good")
    expect(page.find("#facts")).to_contain_text("Lost and repaired")
    meaning = page.find("#freshness dd").filter(has_text="Every file dropped before this time")
    expect(meaning).to_be_hidden()
    page.tab.get_by_text("What this means").click()
    expect(meaning).to_be_visible()


def test_lost_connection_is_shown_in_spite_of_a_warning(page: RowdropPage) -> None:
    page.drop(("ada.csv", "first_name,last_name,birthts\nAda,Lovelace,946674001\n"))
    expect(page.find("#health")).to_have_text("Up to date, with a warning")
    page.tab.route("**/changes", lambda route: route.abort())
    page.tab.reload()
    expect(page.find("#facts")).to_be_visible()
    expect(page.find("#health")).to_have_text("Not connected; retrying")
    page.complaints.clear()  # the browser itself reports each request that failed


def test_health_and_ages_are_updated_without_a_change(page: RowdropPage) -> None:
    page.drop(("bad.csv", "nothing\n"))
    page.find("#problems").scroll_into_view_if_needed()
    age = page.problem("bad.csv").locator("time")
    expect(age).to_be_visible()
    page.tab.route("**/changes", lambda _: None)  # nothing is announced
    page.tab.clock.install()
    page.tab.reload()
    expect(page.find("#facts")).to_contain_text("Complete up to")
    page.find("#problems").scroll_into_view_if_needed()
    expect(age).not_to_contain_text("min")
    with page.tab.expect_request("**/health/ready"):
        page.tab.clock.fast_forward("20")
    page.tab.clock.fast_forward("04:00")
    expect(age).to_have_text("4 min ago")
