"""Pictures of the page, for the documentation.

`PICTURES=docs/images ./test.sh tests/browser/test_pictures.py` makes those in docs/images again.
"""

import json
import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage
from tests.browser.test_drops import ADA, HEADER
from tests.system.running import RunShProcess, wait_until

WIDE = {"width": 1280, "height": 860}
NARROW = {"width": 360, "height": 740}
STATES = ("wide", "dark", "narrow", "empty", "broken")
MAX_BYTES = 250_000
"""Limit of a picture: they are a part of the repository."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(os.environ.get("PICTURES", tmp_path))


def add_sample(rowdrop: RunShProcess) -> None:
    assert rowdrop.run_command("sample").returncode == 0
    wait_until(lambda: len(json.loads(rowdrop.get("/data")[1])) == 20)


def show_broken_file(page: RowdropPage) -> None:
    page.drop(("grace.csv", f"{HEADER}Grace,Hopper,1906-12-09\n"), ("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    expect(page.problem("grace.csv")).to_be_visible()


@pytest.mark.parametrize("state", STATES)
def test_picture_is_made(
    open_tab: OpenPage, rowdrop: RunShProcess, folder: Path, state: str
) -> None:
    if state != "empty":
        add_sample(rowdrop)
    page = open_tab(
        viewport=NARROW if state == "narrow" else WIDE,
        color_scheme="dark" if state == "dark" else "light",
        reduced_motion="reduce",
    )
    expect(page.find("#health")).to_have_text("Live and up to date")
    count = {"empty": 0, "broken": 2}.get(state, 1)
    if state == "broken":
        show_broken_file(page)
    expect(page.find("#numbers")).to_contain_text(f"{count}invalid file")
    if state != "empty":
        expect(page.find("#histogram h2")).to_be_visible()
        expect(page.find(".body canvas:visible").first).to_be_visible()
    picture = folder / f"page-{state}.png"
    page.tab.screenshot(path=picture)
    assert 10_000 < picture.stat().st_size < MAX_BYTES
