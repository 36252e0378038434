"""The page with many rows, and with a token; the API runs without workers."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Route, expect
from playwright.sync_api import Request as SentRequest

from api.description.openapi import build_document
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.records import RULES_VERSION, Reject
from shared.formats.rejects_csv import encode_rejects
from tests.api_process import ONE_ROW_CSV, ApiEnvironment, wait_until
from tests.browser.chromium import RowdropPage
from tests.unit.test_api_openapi import COLOUR_COLUMNS

ROW_COUNT = 100_000
MAX_FRAME_MS = 50
"""Limit of the median time between two frames while the table is scrolled."""
TOKEN = "a-token-of-the-tests"
LARGE_TABLE = OUTPUT_HEADER + b"".join(b"%06d,Ann,Lee,0,\n" % number for number in range(ROW_COUNT))

_SCROLL = """async () => {
    const scroller = document.querySelector(".scroller");
    const times = [];
    let last = performance.now();
    for (let step = 0; step < 120; step += 1) {
        scroller.scrollTop += 700;
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        times.push(now - last);
        last = now;
    }
    return times.sort((one, other) => one - other)[60];
}"""


def open_page(browser: Browser, environment: ApiEnvironment) -> RowdropPage:
    return RowdropPage(browser, f"http://127.0.0.1:{environment.api.port}")


def test_100_000_rows_scroll_smoothly(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", LARGE_TABLE)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api).open()
        grid = page.tab.get_by_role("grid")
        expect(grid).to_have_attribute("aria-rowcount", str(ROW_COUNT + 1))
        assert page.tab.evaluate(_SCROLL) < MAX_FRAME_MS
        # The rows arrive where the scrolling ends, and few elements show them.
        expect(page.find(".body .row.loading:visible")).to_have_count(0)
        grid.focus()
        page.tab.keyboard.press("End")
        expect(page.row("099999")).to_be_visible()
        expect(page.row("099999")).to_have_attribute("aria-rowindex", str(ROW_COUNT + 1))
        assert page.find(".body .row").count() < 100
        page.tab.evaluate("() => { document.querySelector('.scroller').scrollTop = 44 * 50000; }")
        expect(page.row("050000")).to_be_visible()
        page.close()


def test_page_asks_once_for_the_description(browser: Browser, bare_api: ApiEnvironment) -> None:
    """The request that the browser sends early is the one that the scripts wait for."""
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api)
        paths: list[str] = []
        page.tab.on("request", lambda request: paths.append(urlsplit(request.url).path))
        page.open()
        assert paths.count("/openapi.json") == 1
        first_module = next(path for path in paths if path.endswith(".js"))
        assert paths.index("/openapi.json") < paths.index(first_module)
        expect(page.find("#tasks li, #histogram h2").first).to_be_visible()
        page.close()


def test_images_of_rows_out_of_view_are_not_loaded(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    rows = b"".join(b"%04d,Ann,Lee,0,src-data/%04d.png\n" % (each, each) for each in range(1000))
    bare_api.store.put("output.csv", OUTPUT_HEADER + rows)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api)
        asked: list[str] = []
        page.tab.route("**/image", lambda route: asked.append(route.request.url))
        with page.tab.expect_request("**/data/0000/image"):
            page.open()
        with (
            page.tab.expect_event("requestfailed") as dropped,
            page.tab.expect_request("**/data/0999/image"),
        ):
            page.tab.evaluate("() => { document.querySelector('.scroller').scrollTop = 1e6; }")
        assert dropped.value.url in asked
        assert "ERR_ABORTED" in (dropped.value.failure or "")
        assert len(asked) < 100
        page.close()


def test_token_is_asked_for_once_and_never_in_an_address(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    # Behind a published address the API takes no client for a local one.
    bare_api.api.environment = {
        **bare_api.api.environment,
        "BIND_ADDRESS": "0.0.0.0",  # noqa: S104
        "API_TOKEN": TOKEN,
        # Another server may have the same address behind a proxy.
        "PAGE_LINKS": f"Live=http://127.0.0.1:{bare_api.api.port}/health/live",
    }
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api)
        addresses: list[str] = []
        page.tab.on("request", lambda request: addresses.append(request.url))
        page.tab.goto(page.address)
        field = page.find("#token")
        field.fill("a-wrong-token")
        page.button("Use it").click()
        expect(field).to_have_value("")  # it is asked for again
        field.fill(TOKEN)
        page.button("Use it").click()
        expect(page.row("0001")).to_be_visible()
        expect(page.find("#token-dialog")).to_be_hidden()
        page.tab.reload()
        expect(page.row("0001")).to_be_visible()
        expect(page.find("#token-dialog")).to_be_hidden()
        with page.tab.expect_download() as download:
            page.tab.get_by_role("link", name="CSV", exact=True).click()
        assert download.value.path().read_bytes() == ONE_ROW_CSV
        for name, text in {
            "API": "Not Implemented",
            "Health, as JSON": "consistent_as_of",
            "Metrics, for Prometheus": "rowdrop_rows 1.0",
        }.items():
            with page.tab.expect_popup() as popup:
                page.tab.get_by_role("link", name=name, exact=True).click()
            expect(popup.value.locator("body")).to_contain_text(text)
            if name == "API":
                table = popup.value.locator("table").first
                expect(table).to_have_css("border-collapse", "collapse")  # its style is allowed
        assert [address for address in addresses if "token" in address] == []
        page.tab.get_by_role("link", name="Live", exact=True).click()
        page.tab.wait_for_url("**/health/live")
        # The browser itself reports each 401.
        page.complaints = [each for each in page.complaints if "401" not in each]
        page.close()


def test_page_polls_where_there_is_no_stream(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api)
        page.tab.route("**/changes", lambda route: route.fulfill(status=503, body="{}"))
        page.open()
        expect(page.row("0001")).to_be_visible()
        bare_api.publish_output(ONE_ROW_CSV + b"0002,Ann,Lee,0,\n")
        expect(page.row("0002")).to_be_visible()
        # The browser itself reports each 503.
        page.complaints = [each for each in page.complaints if "503" not in each]
        page.close()


def test_token_is_asked_for_after_many_wrong_ones(
    browser: Browser, bare_api: ApiEnvironment
) -> None:
    """A 429 also means that the token is wrong; a valid one is accepted at any time."""
    bare_api.store.put("output.csv", ONE_ROW_CSV)
    bare_api.api.environment = {**bare_api.api.environment, "API_TOKEN": TOKEN}
    with bare_api.api:
        wait_until(bare_api.has_both_processes)

        def answer(route: Route) -> None:
            if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
                route.continue_()
            else:
                route.fulfill(status=429, json={"type": "about:blank", "detail": "Too many."})

        page = open_page(browser, bare_api).open()
        page.tab.evaluate("sessionStorage.setItem('rowdrop-token', 'a-wrong-token')")
        page.tab.route("**/openapi.json", answer)
        page.tab.reload()
        page.find("#token").fill(TOKEN)
        page.button("Use it").click()
        expect(page.rows).to_have_count(1)
        page.complaints = [each for each in page.complaints if "status of 4" not in each]
        page.close()


MARKUP = """"><img src=x onerror="document.title='run'"><svg onload="document.title='run'">"""
IDS = (".", "..", "%2e", "__proto__", "javascript:document.title='run'", "a?b#c", MARKUP)


def test_page_shows_names_and_values_as_text(browser: Browser, bare_api: ApiEnvironment) -> None:
    """Who drops files chooses names, values and the content of images."""
    cell = '"' + MARKUP.replace('"', '""') + '"'
    lines = [f'"{key.replace(chr(34), chr(34) * 2)}",{cell},{cell},0,' for key in sorted(IDS)]
    bare_api.store.put("output.csv", OUTPUT_HEADER + "".join(f"{x}\n" for x in lines).encode())
    rejects = [Reject(f"{key}.csv", key, MARKUP, 2, 0, "etag", RULES_VERSION) for key in IDS]
    bare_api.store.put("rejects.csv", encode_rejects(rejects))
    for name in (f"{MARKUP}.csv", f"{MARKUP}.txt", f"folder/{MARKUP}"):
        bare_api.source.put(name, MARKUP.encode())
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api)
        writes: list[str] = []

        def note_write(sent: SentRequest) -> None:
            if sent.method != "GET":
                writes.append(urlsplit(sent.url).path)

        page.tab.on("request", note_write)
        page.open()
        expect(page.rows).to_have_count(len(IDS))
        for number in range(len(IDS)):
            page.rows.nth(number).click()
            expect(page.find("#detail .fields").first).to_contain_text(MARKUP)
            page.tab.keyboard.press("Escape")
        for section in ("#problems", "#tasks", "#files"):
            page.find(section).scroll_into_view_if_needed()
        expect(page.find("#problem-list li")).to_have_count(len(IDS))
        expect(page.find("#file-list .file")).to_have_count(3)
        page.drop((f"{MARKUP}.csv", "first_name"))
        expect(page.upload(MARKUP)).to_be_visible()
        writes.clear()
        for key in (".", ".."):
            problem = page.find("#problem-list li").filter(
                has=page.tab.get_by_text(f"{key}.csv", exact=True)
            )
            problem.get_by_role("button", name="Read again").click()
            expect(problem).to_contain_text("There is nothing at this address")
        # A browser would send `/data/.` as `/data/`, which reads the files of all users again.
        assert writes == ["/data/%2F.", "/data/%2F.."]
        page.tab.goto(page.address + "/data?format=html")
        expect(page.tab.get_by_text(MARKUP).first).to_be_visible()
        assert page.tab.title() == "Rowdrop"
        page.complaints = [each for each in page.complaints if "Failed to load" not in each]
        page.close()


def test_problem_without_a_time_has_no_age(browser: Browser, bare_api: ApiEnvironment) -> None:
    bare_api.store.put("output.csv", OUTPUT_HEADER + b"0001,Ann,Lee,946674001,\n")
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api).open()
        expect(page.problem("0001.csv")).to_contain_text("seconds")
        assert "ago" not in page.problem("0001.csv").inner_text()
        page.complaints = [each for each in page.complaints if "503" not in each]
        page.close()


def test_page_follows_another_schema(browser: Browser, bare_api: ApiEnvironment) -> None:
    """Nothing in the page names a column: this API describes others, and answers accordingly."""
    rows = [
        {"user_id": "1", "colour": "red", "weight": 5},
        {"user_id": "2", "colour": None, "weight": 7},
    ]

    def answer(route: Route, body: object, **headers: str) -> None:
        route.fulfill(json=body, headers={"X-Table-Version": "1", **headers})

    with bare_api.api:
        page = open_page(browser, bare_api)
        page.tab.route(
            "**/openapi.json", lambda route: answer(route, build_document(COLOUR_COLUMNS))
        )
        page.tab.route("**/data?*", lambda route: answer(route, rows, **{"X-Total-Count": "2"}))
        page.tab.route(
            "**/stats?*",
            lambda route: answer(route, {"count": 2, "average_weight": 6, "filters": {}}),
        )
        page.tab.route("**/data/1?*", lambda route: answer(route, rows[0]))
        file = {"name": "1.csv", "user_id": "1", "size": 9, "last_modified": "2026-01-01T00:00:00Z"}
        page.tab.route("**/files?limit=1000*", lambda route: answer(route, [file]))
        page.tab.route("**/changes", lambda route: route.fulfill(status=200, body=""))
        page.open()
        headings = page.tab.get_by_role("columnheader")
        expect(headings).to_have_text(["User id", "Paint", "Weight"])
        expect(page.rows).to_have_text(["1red5", "27"])
        expect(page.find("#numbers")).to_contain_text("6Average weight")
        page.tab.get_by_label("From week").fill("3")
        expect(page.find("#row-count")).to_have_text("2 match")
        assert page.tab.url.endswith("/?min_weeks=3")
        expect(page.tab.get_by_label("Has colour").locator("option")).to_have_text(
            ["any", "painted", "bare"]
        )
        expect(page.find("#histogram h2")).to_have_text("Weeks")
        # Each answer says that two rows match, so all bars are shown.
        expect(page.find("#histogram .bars button")).to_have_text(["<2", "2", "4", "6", "8"])
        expect(page.find("#examples")).to_contain_text("/data?has_colour=true")
        expect(page.find("#drop-example")).to_contain_text("colour,weight ↵ red,5")
        expect(page.find("#drop-hint")).to_have_text(re.compile("^A CSV becomes a row; zip"))
        page.rows.first.click()
        expect(page.find("#detail")).to_contain_text("Paint")
        # Without a column of images there is no button for one.
        buttons = page.find("#detail .buttons button:visible")
        expect(buttons).to_have_text(["Read again", "Delete this row"])
        page.complaints = [each for each in page.complaints if "503" not in each]
        page.close()


def test_row_without_an_address_says_so(browser: Browser, bare_api: ApiEnvironment) -> None:
    """A browser resolves the parts "." and ".." of a path."""
    bare_api.store.put("output.csv", OUTPUT_HEADER + b".,Ann,Lee,0,\n..,Ann,Lee,0,\n")
    with bare_api.api:
        wait_until(bare_api.has_both_processes)
        page = open_page(browser, bare_api).open()
        expect(page.rows).to_have_count(2)
        for key in (".", ".."):
            has_key = page.tab.locator(".cell.key", has_text=re.compile(f"^{re.escape(key)}$"))
            page.rows.filter(has=has_key).click()
            card = page.find("#detail")
            expect(card).to_contain_text(f'A browser cannot ask for the row "{key}"')
            expect(card.locator(".fields").first).to_contain_text("Ann")
            expect(card.get_by_role("button", name="Read again")).to_be_hidden()
            expect(card.locator(".error")).to_be_hidden()
            page.tab.keyboard.press("Escape")
        page.complaints = [each for each in page.complaints if "503" not in each]
        page.close()
