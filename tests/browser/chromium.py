"""Find a Chromium, and drive the page of a Rowdrop with it.

Run as a program, it says how to get a browser if none is found.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, FilePayload, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
HOW_TO_GET_ONE = (
    "no Chromium is found: apt install chromium (Debian), or set CHROMIUM to the path of a "
    "Chromium or Chrome"
)
OPTIONS = (
    "--no-sandbox",  # a container and root have no sandbox
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
)
TIMEOUT_MS = 20_000
"""Timeout of each expectation, also on a busy machine."""

expect.set_options(timeout=TIMEOUT_MS)

_DROP = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, text] of files) transfer.items.add(new File([text], name));
    document.body.dispatchEvent(
        new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def find_chromium() -> str | None:
    """Return the path of a Chromium: that of the variable `CHROMIUM`, or the first one found."""
    if asked := os.environ.get("CHROMIUM"):
        return asked
    found = filter(None, map(shutil.which, NAMES))
    return next(found, None) or next((path for path in PATHS if Path(path).exists()), None)


@contextmanager
def launch_chromium(path: str) -> Iterator[Browser]:
    """Start a browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*OPTIONS])
        try:
            yield browser
        finally:
            browser.close()


class RowdropPage:
    """One tab with the page of a Rowdrop.

    `complaints` are errors of the console and of scripts, and requests to other hosts.
    """

    def __init__(self, browser: Browser, address: str, **context_options: Any) -> None:  # noqa: ANN401
        self.address = address
        self.complaints: list[str] = []
        self.context = browser.new_context(**{"locale": "en-GB", **context_options})
        self.tab: Page = self.context.new_page()
        self.tab.set_default_timeout(TIMEOUT_MS)
        self._watch()

    def _watch(self) -> None:
        def note_request(url: str) -> None:
            is_own = url.startswith((self.address, "blob:", "data:"))
            if not is_own and urlsplit(url).netloc != urlsplit(self.address).netloc:
                self.complaints.append(f"request to another host: {url}")

        def note_message(kind: str, text: str) -> None:
            # The browser reports each 422, which is the answer to the drop of an invalid file.
            if kind in {"error", "warning"} and "status of 422" not in text:
                self.complaints.append(f"{kind}: {text}")

        self.tab.on("request", lambda request: note_request(request.url))
        self.tab.on("console", lambda message: note_message(message.type, message.text))
        # Chromium only reports dialogs from some moment after the first listener is added.
        self.tab.on("filechooser", lambda _: None)
        self.tab.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def open(self, path: str = "/") -> "RowdropPage":
        """Open the page, and wait until it shows its first rows."""
        self.tab.goto(self.address + path)
        self.tab.wait_for_selector("html[data-ready]")
        return self

    def drop(self, *files: tuple[str, str]) -> None:
        """Drop files with these names and texts onto the page."""
        self.tab.evaluate(_DROP, [list(file) for file in files])

    def find(self, selector: str) -> Locator:
        """Return the elements that match a CSS selector."""
        return self.tab.locator(selector)

    def button(self, name: str) -> Locator:
        """Return the buttons with this text."""
        return self.tab.get_by_role("button", name=name, exact=True)

    @property
    def rows(self) -> Locator:
        """The rows that the table shows."""
        return self.find(".body .row:visible")

    def row(self, key: str) -> Locator:
        """Return the row of the table with this key."""
        return self.rows.filter(has=self.tab.locator(".cell.key", has_text=key))

    def upload(self, name: str) -> Locator:
        """Return the entry of an upload."""
        return self.find("#upload-list > li").filter(has_text=name)

    def problem(self, name: str) -> Locator:
        """Return the entry of an invalid file."""
        return self.find("#problem-list li").filter(has_text=name)

    def answer(self, name: str) -> None:
        """Press a button of the question that the page asks."""
        self.find("dialog.ask").get_by_role("button", name=name).click()

    def choose_file(
        self, opener: Locator, name: str, content: bytes | str, media_type: str = "text/csv"
    ) -> None:
        """Press a button that asks for a file, and choose one."""
        with self.tab.expect_file_chooser() as chooser:
            opener.click()
        buffer = content.encode() if isinstance(content, str) else content
        file: FilePayload = {"name": name, "mimeType": media_type, "buffer": buffer}
        chooser.value.set_files(file)

    def close(self) -> None:
        """Close the tab; fail if there was something to complain about."""
        self.context.close()
        assert self.complaints == []


if __name__ == "__main__" and find_chromium() is None:
    print(f"The tests of the page are skipped: {HOW_TO_GET_ONE}.")
