"""How soon the page is usable, and how soon it highlights the row of a dropped file, in a Chromium.

Both are measured by the clock of the browser: from the start of the navigation until the first rows
are shown, and from the event of the drop until a frame in which the row is highlighted.
"""

import random
import time

from playwright.sync_api import Browser

from bench.measurements import Measurement, compute_percentile, max_value
from bench.rowdrop import RowdropInstance
from bench.users import BenchUsers
from local.ports import HOST
from tests.browser.chromium import RowdropPage, find_chromium, launch_chromium

OPENINGS = 10
_PAUSE_S = 0.2

_READY_MS = "performance.getEntriesByName('ready')[0].startTime"
_DROP_MS = """async ([name, text, key]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name));
    const startedAt = performance.now();
    document.body.dispatchEvent(
        new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
    const isShown = () => [...document.querySelectorAll(".body .row.fresh")].some(
        (row) => !row.hidden && row.textContent.includes(key));
    while (!isShown()) {
        if (performance.now() - startedAt > 10000) throw new Error(`no row ${key} in 10 s`);
        await new Promise(requestAnimationFrame);
    }
    return performance.now() - startedAt;
}"""


def measure_page(
    rowdrop: RowdropInstance, users: BenchUsers, count: int, drops: int, rng: random.Random
) -> list[Measurement]:
    """Open the page `OPENINGS` times without a cache, drop files of some users, and return both.

    Without a Chromium there are no figures.
    """
    path = find_chromium()
    if path is None:
        return []
    address = f"http://{HOST}:{rowdrop.api_port}"
    with launch_chromium(path) as browser:
        openings_ms = [_measure_opening(browser, address) for _ in range(OPENINGS)]
        page = RowdropPage(browser, address).open()
        # A highlight lasts for seconds, so each user is dropped once.
        numbers = rng.sample(range(count), min(drops, count))
        drops_ms = [_measure_drop(page, users, number) for number in numbers]
        page.close()
    return [
        Measurement(
            f"page usable, without a cache, {count:,} users, p50",
            compute_percentile(openings_ms, 0.5),
            "ms",
            None,
            max_value(300, "ms"),
            f"{OPENINGS} openings",
        ),
        Measurement(
            f"drop on the page → highlighted row, {count:,} users, p50",
            compute_percentile(drops_ms, 0.5),
            "ms",
            None,
            max_value(150, "ms"),
            f"{len(drops_ms)} drops",
        ),
    ]


def _measure_opening(browser: Browser, address: str) -> float:
    page = RowdropPage(browser, address).open()
    elapsed_ms = float(page.tab.evaluate(_READY_MS))
    page.close()
    return elapsed_ms


def _measure_drop(page: RowdropPage, users: BenchUsers, number: int) -> float:
    time.sleep(_PAUSE_S)
    change = users.make_change(number)
    key = BenchUsers.format_user_id(number)
    return float(page.tab.evaluate(_DROP_MS, [change.key, change.body.decode(), key]))
