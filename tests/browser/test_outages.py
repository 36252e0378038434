"""The page while requests fail, and after that."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Route, expect

from tests.api_process import ONE_ROW_CSV, ApiEnvironment, wait_until
from tests.browser.chromium import RowdropPage
from tests.browser.test_drops import PNG

TOKEN = "a-token-of-the-tests"
ROW_WITH_IMAGE_CSV = ONE_ROW_CSV.replace(b",\n", b",src-data/0001.png\n")
TWO_ROWS_CSV = ONE_ROW_CSV + b"0002,Ann,Lee,0,\n"
ROW = {"user_id": "ada", "first_name": "Ada", "last_name": "Lovelace", "birthts": 0, "img_path": ""}
STORED = {"name": "ada.csv", "user_id": "ada", "status": "stored", "size": 1, "etag": "e"}

# A server cannot cause this: Chromium repeats a request if its connection is closed.
_CLOSE_UPLOADS = """() => {
    XMLHttpRequest.prototype.send = function () {
        this.upload.dispatchEvent(new Event("load"));
        this.dispatchEvent(new Event("error"));
    };
}"""


def build_page(browser: Browser, environment: ApiEnvironment) -> RowdropPage:
    """Return a tab, which does not show the page yet."""
    return RowdropPage(browser, f"http://127.0.0.1:{environment.api.port}")


def require_token(environment: ApiEnvironment, token: str) -> None:
    """Require a token from the next start of the API on."""
    environment.api.environment = {
        **environment.api.environment,
        "BIND_ADDRESS": "0.0.0.0",  # noqa: S104
        "API_TOKEN": token,
    }


def close(page: RowdropPage) -> None:
    """Close the tab. The browser itself reports each request that failed."""
    page.complaints = [each for each in page.complaints if "Failed to load" not in each]
    page.close()


@contextmanager
def show_page(
    browser: Browser, environment: ApiEnvironment, output_csv: bytes
) -> Iterator[RowdropPage]:
    """Start the API with this output.csv, and yield a tab that shows the page."""
    environment.store.put("output.csv", output_csv)
    with environment.api:
        wait_until(environment.has_both_processes)
        page = build_page(browser, environment).open()
        yield page
        close(page)


def stub_upload(page: RowdropPage) -> None:
    """Answer the upload of ada.csv with a 202."""
    body = {**STORED, "look_at": "/data/ada"}
    page.tab.route("**/files/ada.csv?wait=5", lambda route: route.fulfill(status=202, json=body))


# -- uploads ---------------------------------------------------------------------------------------
def test_stored_file_waits_for_its_receipt_in_an_outage(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    with show_page(browser, bare_api, ONE_ROW_CSV) as page:
        stub_upload(page)
        requests: list[str] = []

        def answer(route: Route) -> None:
            requests.append(route.request.url)
            if len(requests) == 1:
                route.fulfill(status=503, json={"detail": "Redis is unavailable."})
            elif len(requests) == 2:
                route.abort()
            else:
                route.fulfill(json={**STORED, "result": "row", "reason": None, "row": ROW})

        page.tab.route("**/receipt?*", answer)
        page.drop(("ada.csv", "first_name"))
        expect(page.upload("ada.csv").locator(".tag")).to_have_text("row")
        assert len(requests) == 3
        expect(page.find("#upload-summary")).to_have_text("1 of 1 file uploaded")


def test_stored_file_without_receipt_is_no_failure(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    with show_page(browser, bare_api, ONE_ROW_CSV) as page:
        stub_upload(page)
        page.tab.route("**/receipt?*", lambda route: route.fulfill(status=404, json={}))
        page.drop(("ada.csv", "first_name"))
        expect(page.upload("ada.csv")).to_contain_text("It is in the bucket; its row follows.")
        expect(page.find("#upload-summary")).to_have_text("1 of 1 file uploaded")


def test_upload_without_an_answer_is_not_confirmed(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    """The file of a connection that is closed after the last byte may be stored."""
    with show_page(browser, bare_api, ONE_ROW_CSV) as page:
        page.tab.evaluate(_CLOSE_UPLOADS)
        page.drop(("ada.csv", "first_name"))
        entry = page.upload("ada.csv")
        expect(entry).to_contain_text("The connection was closed: the file may be stored.")
        expect(entry.get_by_role("button", name="Try again")).to_be_visible()
        expect(page.find("#upload-summary")).to_have_text("0 of 1 file uploaded, 1 not confirmed")


def test_upload_answer_of_another_server_is_not_confirmed(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    with show_page(browser, bare_api, ONE_ROW_CSV) as page:
        page.tab.route("**/files/ada.csv?wait=5", lambda route: route.fulfill(body="<p>Log in"))
        page.drop(("ada.csv", "first_name"))
        expect(page.upload("ada.csv").locator(".tag")).to_have_text("not confirmed")
        expect(page.upload("ada.csv")).to_contain_text("The answer is not one of the API")


# -- reads -----------------------------------------------------------------------------------------
def test_rows_are_loaded_after_a_restart(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", TWO_ROWS_CSV)
    page = build_page(browser, bare_api)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page.open()
    page.tab.get_by_label("Search").fill("ann")
    expect(page.find("#filter-error")).to_have_text("The API does not answer.")
    with bare_api.api:
        expect(page.find("#row-count")).to_have_text("1 match")
        expect(page.rows).to_have_count(1)
        expect(page.row("0002")).to_contain_text("Lee")
        expect(page.find("#filter-error")).to_be_hidden()
        expect(page.find("#notice")).to_be_hidden()
        close(page)


def test_rows_are_requested_again_after_an_outage(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    """The stream of changes stays connected, so nothing else repeats the request."""
    with show_page(browser, bare_api, TWO_ROWS_CSV) as page:
        page.tab.route(
            "**/data?q=ann*", lambda route: route.fulfill(status=503, json={"detail": "Later."})
        )
        page.tab.get_by_label("Search").fill("ann")
        expect(page.find("#filter-error")).to_have_text("Later.")
        page.tab.unroute("**/data?q=ann*")
        expect(page.find("#row-count")).to_have_text("1 match")
        expect(page.find("#filter-error")).to_be_hidden()


def test_numbers_are_requested_again_after_an_outage(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    with show_page(browser, bare_api, TWO_ROWS_CSV) as page:
        page.tab.route(
            "**/stats?q=ann", lambda route: route.fulfill(status=503, json={"detail": "Later."})
        )
        page.tab.get_by_label("Search").fill("ann")
        expect(page.find("#notice")).to_have_text("Later.")
        page.tab.unroute("**/stats?q=ann")
        expect(page.find("#numbers")).to_contain_text("1row matches")
        expect(page.find("#notice")).to_be_hidden()


def test_upload_that_a_proxy_gives_up_is_not_confirmed(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    with show_page(browser, bare_api, ONE_ROW_CSV) as page:
        page.tab.route(
            "**/files/ada.csv?wait=5", lambda route: route.fulfill(status=504, body="<p>Timeout")
        )
        page.drop(("ada.csv", "first_name"))
        expect(page.upload("ada.csv").locator(".tag")).to_have_text("not confirmed")


def test_picture_is_requested_again_after_an_outage(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    bare_api.store.put("output.csv", ROW_WITH_IMAGE_CSV)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = build_page(browser, bare_api)
        statuses = [200, 503]  # of the thumbnail, and of the card

        def answer(route: Route) -> None:
            route.fulfill(status=statuses.pop(0) if statuses else 200, body=PNG)

        page.tab.route("**/data/0001/image", answer)
        page.open()
        expect(page.row("0001").locator("canvas")).to_be_visible()
        with page.tab.expect_response("**/data/0001/image"):
            page.row("0001").click()
        picture = page.find("#detail img")
        expect(picture).to_be_hidden()
        bare_api.store.put("output.csv", ROW_WITH_IMAGE_CSV.replace(b"Ivanov", b"Iwanow"))
        expect(picture).to_be_visible()
        close(page)


def test_invalid_filter_leaves_no_rows(browser: Browser, bare_api: ApiEnvironment) -> None:
    with show_page(browser, bare_api, TWO_ROWS_CSV) as page:
        expect(page.find("#row-count")).to_have_text("2")
        page.tab.get_by_label("From age").fill("1.5")
        expect(page.find("#filter-error")).to_contain_text("at most five digits")
        expect(page.find("#row-count")).to_have_text("")
        expect(page.rows).to_have_count(0)
        expect(page.find("#table-empty")).to_be_hidden()
        expect(page.find("#numbers")).to_contain_text("–rows match")
        expect(page.find("#notice")).to_be_hidden()
        page.tab.get_by_label("From age").fill("1")
        expect(page.rows).to_have_count(2)
        expect(page.find("#row-count")).to_have_text("2 match")


def test_rebuild_is_followed_after_a_restart(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    page = build_page(browser, bare_api)
    text = page.find("#rebuild p").first
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page.open()
        page.button("Rebuild").click()
        expect(text).to_have_text("Queued …")
    expect(text).to_have_text("The API does not answer.")
    with bare_api.api:
        expect(text).to_have_text("Queued …")
        close(page)


def test_page_starts_after_an_outage(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = build_page(browser, bare_api)
        page.tab.route("**/openapi.json", lambda route: route.abort())
        page.tab.goto(page.address)
        expect(page.find("#health")).to_have_text("The API does not answer")
        page.tab.unroute("**/openapi.json")
        expect(page.row("0001")).to_be_visible()
        expect(page.find("#notice")).to_be_hidden()
        close(page)


# -- tokens ----------------------------------------------------------------------------------------
def test_page_without_token_starts_when_it_is_given(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    require_token(bare_api, TOKEN)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = build_page(browser, bare_api)
        page.tab.goto(page.address)
        page.button("Cancel").click()
        expect(page.find("#health")).to_have_text("A token is needed")
        page.button("Enter a token").click()
        page.find("#token").fill(TOKEN)
        page.button("Use it").click()
        expect(page.row("0001")).to_be_visible()
        expect(page.button("Enter a token")).to_be_hidden()
        close(page)


def test_refused_token_is_not_sent_in_background(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    bare_api.store.put("output.csv", TWO_ROWS_CSV)
    require_token(bare_api, "an-earlier-token-of-the-tests")
    page = build_page(browser, bare_api)
    requests: list[str] = []
    page.tab.clock.install()
    dialog = page.find("#token-dialog")
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page.tab.goto(page.address)
        page.find("#token").fill("an-earlier-token-of-the-tests")
        page.button("Use it").click()
        expect(page.rows).to_have_count(2)
    require_token(bare_api, TOKEN)
    with bare_api.api:
        page.button("Cancel").click()
        expect(page.find("#health")).to_have_text("A token is needed")
        page.tab.on("request", lambda request: requests.append(request.url))
        for _ in range(5):
            page.tab.clock.fast_forward(10_000)
        expect(dialog).to_be_hidden()
        expect(page.rows).to_have_count(2)
        assert requests == []
        # An action of the user asks again.
        page.tab.get_by_role("button", name="Sort by First name").click()
        page.button("Cancel").click()
        page.button("Enter a token").click()
        page.find("#token").fill(TOKEN)
        page.button("Use it").click()
        expect(page.button("Enter a token")).to_be_hidden()
        expect(page.rows.first).to_contain_text("Ann")
        expect(page.find("#health")).not_to_have_text("A token is needed")
        close(page)


def test_cancel_counts_for_all_files_of_a_drop(browser: Browser, bare_api: ApiEnvironment) -> None:
    """A write may need a token where reads need none; reads continue."""
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    require_token(bare_api, TOKEN)
    bare_api.api.environment = {**bare_api.api.environment, "PUBLIC_READ": "true"}
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = build_page(browser, bare_api).open()
        page.drop(*((f"{number}.csv", "first_name") for number in range(6)))
        page.button("Cancel").click()
        expect(page.find("#upload-summary")).to_have_text("0 of 6 files uploaded, 6 not uploaded")
        expect(page.find("#token-dialog")).to_be_hidden()
        bare_api.publish_output(TWO_ROWS_CSV)
        expect(page.rows).to_have_count(2)
        close(page)


def test_token_with_other_characters_is_not_accepted(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    """fetch() refuses to send them, so no request would be possible until the tab is closed."""
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    require_token(bare_api, TOKEN)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = build_page(browser, bare_api)
        page.tab.goto(page.address)
        for wrong in ("token\u2013of", "tökén", "two words"):
            page.find("#token").fill(wrong)
            page.button("Use it").click()
            expect(page.find("#token-dialog")).to_be_visible()
            assert json.loads(page.tab.evaluate("JSON.stringify({...sessionStorage})")) == {}
        page.find("#token").fill(f" {TOKEN} ")
        page.button("Use it").click()
        expect(page.row("0001")).to_be_visible()
        close(page)
