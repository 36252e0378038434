"""What a person sees who drops files onto the page."""

import io
import re
import zipfile
from pathlib import Path

import pytest
from minio import Minio
from playwright.sync_api import FilePayload, Route, expect

from tests.browser.chromium import RowdropPage
from tests.browser.conftest import OpenPage

HEADER = "first_name,last_name,birthts\n"
ADA = f"{HEADER}Ada,Lovelace,-4861728000000\n"
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f"
    b"\x15\xc4\x89\x00\x00\x00\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\x00\x05\x00\x01\xff\x89\x99=\x1d"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)
MAX_THUMBNAIL_BYTES = 4_000_000
_FOCUSED_NAME = """() => {
    const it = document.activeElement;
    const label = it.labels?.[0] ?? document.getElementById(it.getAttribute("aria-labelledby"));
    return (label ?? it).textContent.trim();
}"""
FRESH = re.compile(r"\bfresh\b")


def test_empty_page_shows_how_to_begin(page: RowdropPage) -> None:
    expect(page.find("#drop-title")).to_have_text("Drop your first file here")
    page.button("Drop this example").click()
    expect(page.rows).to_have_count(1)
    expect(page.find("#drop-title")).to_have_text("Drop files here")
    expect(page.find("#first-steps")).to_be_hidden()


def test_dropped_file_becomes_a_highlighted_row(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_have_class(FRESH)
    expect(page.row("ada")).to_contain_text("Lovelace")
    expect(page.upload("ada.csv")).to_contain_text("Ada · Lovelace")
    expect(page.find("#upload-summary")).to_have_text("1 of 1 file uploaded")
    expect(page.find("#numbers")).to_contain_text(re.compile(r"1row(?!s)"))
    # The highlighting ends.
    expect(page.row("ada")).not_to_have_class(FRESH)


def test_broken_file_shows_its_reason_until_it_is_replaced(page: RowdropPage) -> None:
    page.drop(("ada.csv", f"{HEADER}Ada,Lovelace,soon\n"))
    upload = page.upload("ada.csv")
    expect(upload).to_contain_text("rejected")
    expect(upload).to_contain_text("line 2: birthts")
    expect(page.problem("ada.csv")).to_contain_text("Ada,Lovelace,soon")  # the quoted line
    replace = upload.get_by_role("button", name="Replace")
    page.choose_file(replace, "corrected.csv", ADA)
    expect(page.find("dialog.ask")).to_contain_text("Upload corrected.csv as ada.csv?")
    page.answer("Cancel")
    expect(upload).to_contain_text("rejected")
    page.choose_file(replace, "corrected.csv", ADA)
    page.answer("Upload")
    expect(page.row("ada")).to_contain_text("Lovelace")
    expect(page.problem("ada.csv")).to_have_count(0)
    expect(page.find("#problem-count")).to_have_text("")
    # The new result has replaced the old one.
    expect(upload).to_have_count(1)
    expect(page.find("#upload-summary")).to_have_text("1 of 1 file uploaded")


def test_broken_second_version_says_that_the_row_stays(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    page.drop(("ada.csv", f"{HEADER}Ada,Lovelace\n"))
    expect(page.upload("ada.csv")).to_contain_text("The last valid row stays")
    expect(page.problem("ada.csv")).to_contain_text("old version stays")
    expect(page.row("ada")).to_be_visible()


def test_suspicious_file_shows_its_row_and_why(page: RowdropPage) -> None:
    page.drop(("ada.csv", f"{HEADER}Ada,Lovelace,946674001\n"))
    expect(page.row("ada")).to_be_visible()
    expect(page.upload("ada.csv")).to_contain_text("suspicious")
    expect(page.upload("ada.csv")).to_contain_text("are these seconds?")
    expect(page.upload("ada.csv")).to_contain_text("Ada · Lovelace")


def test_file_that_is_no_users_file_is_not_uploaded(page: RowdropPage, s3: Minio) -> None:
    page.drop(("notes.txt", "hello"), ("ada.csv", ADA), ("empty.csv", ""))
    expect(page.upload("notes.txt")).to_contain_text("not uploaded")
    expect(page.upload("empty.csv")).to_contain_text("the file is empty")
    expect(page.find("#upload-summary")).to_have_text("1 of 3 files uploaded, 2 not uploaded")
    assert [each.object_name for each in s3.list_objects("src-data")] == ["ada.csv"]


def test_file_with_extension_in_upper_case_is_uploaded_in_lower_case(page: RowdropPage) -> None:
    page.drop(("ada.CSV", ADA), ("csv", ADA))
    expect(page.row("ada")).to_be_visible()
    expect(page.upload("ada.csv")).to_contain_text("Ada · Lovelace")
    expect(page.find("#upload-summary")).to_have_text("1 of 2 files uploaded, 1 not uploaded")


def test_damaged_image_is_not_uploaded(page: RowdropPage, s3: Minio) -> None:
    page.choose_file(page.button("Choose files"), "ada.png", PNG[:40], "image/png")
    expect(page.upload("ada.png")).to_contain_text("it is no image, or a damaged one")
    assert [*s3.list_objects("src-data")] == []


def test_refused_file_is_not_tried_again(page: RowdropPage) -> None:
    page.drop(("ada.csv", HEADER + 1_000_000 * "x"))
    expect(page.upload("ada.csv")).to_contain_text("failed")
    expect(page.upload("ada.csv")).to_contain_text("the limit is 1,000,000")
    expect(page.button("Try again")).to_have_count(0)
    # The browser itself reports the refusal.
    page.complaints = [each for each in page.complaints if "413" not in each]


def test_rejected_files_are_the_first_of_the_list(page: RowdropPage) -> None:
    page.drop(("ada.csv", "nothing\n"))
    expect(page.upload("ada.csv")).to_contain_text("rejected")
    page.drop(("bob.csv", ADA), ("carl.csv", ADA))
    expect(page.find("#upload-summary")).to_have_text("3 of 3 files uploaded, 1 rejected")
    expect(page.find("#upload-list > li").first).to_contain_text("ada.csv")
    page.button("1 rejected").click()
    expect(page.upload("ada.csv")).to_be_focused()


def test_deletion_asks_and_is_seen_in_the_list_of_uploads(page: RowdropPage) -> None:
    page.drop(("ada.csv", "nothing\n"), ("bob.csv", "nothing\n"))
    page.problem("ada.csv").get_by_role("button", name="Delete").click()
    page.answer("Cancel")
    expect(page.problem("ada.csv").get_by_role("button", name="Delete")).to_be_focused()
    for name in ("ada.csv", "bob.csv"):
        page.problem(name).get_by_role("button", name="Delete").click()
        expect(page.find("dialog.ask")).to_contain_text(f"Delete {name}?")
        page.answer("Delete")
        expect(page.problem(name)).to_have_count(0)
        expect(page.upload(name).locator(".tag")).to_have_text("deleted")
    expect(page.find("#upload-summary")).to_have_text("2 of 2 files uploaded, 2 deleted")
    # The keyboard stays where the list was.
    expect(page.find("#problems-title")).to_be_focused()
    expect(page.find("#problem-list")).to_contain_text("no file is rejected")


def test_failed_deletion_says_why_at_its_button(page: RowdropPage) -> None:
    page.drop(("ada.csv", "nothing\n"))
    answer = {"status": 503, "json": {"detail": "MinIO does not answer."}}
    page.tab.route("**/files/ada.csv", lambda route: route.fulfill(**answer))
    for entry in (page.upload("ada.csv"), page.problem("ada.csv")):
        entry.get_by_role("button", name="Delete").click()
        page.answer("Delete")
        expect(entry).to_contain_text("MinIO does not answer.")
    # The browser itself reports each 503.
    page.complaints = [each for each in page.complaints if "503" not in each]


def test_image_says_which_csv_it_waits_for(page: RowdropPage, tmp_path: Path) -> None:
    image = tmp_path / "IMG_2041.png"
    image.write_bytes(PNG)
    page.find("#files-input").set_input_files(image)
    expect(page.upload("IMG_2041.png")).to_contain_text("visible with IMG_2041.csv")
    expect(page.upload("IMG_2041.png").locator(".tag")).not_to_have_class("tag good")
    page.drop(("IMG_2041.csv", ADA))
    expect(page.upload("IMG_2041.png").locator(".tag")).to_have_text("image")


def test_image_becomes_the_picture_of_its_row(page: RowdropPage, s3: Minio) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    s3.put_object("src-data", "ada.png", io.BytesIO(PNG), len(PNG))  # by another client
    expect(page.row("ada").locator("canvas")).to_be_visible()
    page.row("ada").click()
    expect(page.find("#detail img")).to_be_visible()
    expect(page.find("#detail .file")).to_have_count(2)


def choose_image(page: RowdropPage, name: str, content: bytes) -> None:
    file: FilePayload = {"name": name, "mimeType": "image/png", "buffer": content}
    page.find("#files-input").set_input_files([file])


def test_dropped_image_replaces_one_of_the_same_name(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    choose_image(page, "ada.png", PNG)
    expect(page.row("ada").locator("canvas")).to_be_visible()
    with page.tab.expect_response("**/data/ada/image"):
        choose_image(page, "ada.png", PNG + b"another version")
    expect(page.row("ada").locator("canvas")).to_be_visible()


def test_large_image_is_only_shown_in_detail(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_be_visible()
    with page.tab.expect_response("**/data/ada/image"):
        choose_image(page, "ada.png", PNG + bytes(MAX_THUMBNAIL_BYTES))
    page.row("ada").click()
    expect(page.find("#detail img")).to_be_visible()
    expect(page.row("ada").locator("canvas")).to_have_count(0)


def test_detail_shows_history_and_changes_the_file(page: RowdropPage) -> None:
    page.drop(("ada.csv", ADA))
    expect(page.row("ada")).to_contain_text("Lovelace")
    page.drop(("ada.csv", ADA.replace("Lovelace", "Byron")))
    expect(page.row("ada")).to_contain_text("Byron")
    page.row("ada").click()
    detail = page.find("#detail")
    expect(detail).to_contain_text("Made fromada.csv")
    expect(detail).to_contain_text(re.compile("Published.+ later"))
    expect(detail).to_contain_text(re.compile("Earlier versions.+: a valid row"))
    page.button("Read again").click()
    expect(detail.get_by_role("status").filter(has_text="Read just now.")).to_be_visible()
    replace = detail.locator(".file").get_by_role("button", name="Replace")
    page.choose_file(replace, "other.csv", ADA.replace("Lovelace", "King"))
    page.answer("Upload")
    expect(page.row("ada")).to_contain_text("King")
    expect(detail.locator(".card-body")).to_contain_text("King")
    detail.locator(".file").get_by_role("button", name="Delete").click()
    page.answer("Delete")
    expect(page.row("ada")).to_have_count(0)
    expect(detail).to_contain_text("This row is gone.")
    # The browser itself reports that the row is not found.
    page.complaints = [each for each in page.complaints if "404" not in each]


def test_problem_is_read_again(page: RowdropPage) -> None:
    page.drop(("ada.csv", "nothing\n"))
    problem = page.problem("ada.csv")
    problem.get_by_role("button", name="Read again").click()
    expect(problem).to_contain_text("Read again: it is still the same.")


def test_file_is_fixed_and_found_by_keyboard_alone(page: RowdropPage) -> None:
    def move_to(name: str) -> None:
        for _ in range(60):
            page.tab.keyboard.press("Tab")
            if page.tab.evaluate(_FOCUSED_NAME) == name:
                return
        pytest.fail(f"no way to {name}")

    def choose(name: str, text: str) -> None:
        with page.tab.expect_file_chooser() as chooser:
            page.tab.keyboard.press("Enter")
        file: FilePayload = {"name": name, "mimeType": "text/csv", "buffer": text.encode()}
        chooser.value.set_files([file])

    move_to("Skip to the rows")
    move_to("Choose files")
    choose("ada.csv", f"{HEADER}Ada,Lovelace,soon\n")
    expect(page.upload("ada.csv")).to_contain_text("line 2")
    move_to("Replace")
    choose("corrected.csv", ADA)
    move_to("Upload")
    page.tab.keyboard.press("Enter")
    expect(page.row("ada")).to_be_visible()
    move_to("Search")
    page.tab.keyboard.type("lovelace")
    expect(page.find("#row-count")).to_have_text("1 match")
    move_to("Rows 1 match")
    page.tab.keyboard.press("Enter")
    expect(page.find("#detail-title")).to_have_text("ada")
    page.tab.keyboard.press("Escape")
    expect(page.find("#detail")).to_be_hidden()
    move_to("Rebuild")
    page.tab.keyboard.press("Enter")
    expect(page.find("#rebuild")).to_contain_text("Rebuilt 1 in")


def test_bundle_becomes_rows(page: RowdropPage, tmp_path: Path) -> None:
    bundle = tmp_path / "people.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        for number in range(5):
            archive.writestr(f"person-{number}.csv", ADA)
        archive.writestr("broken.csv", "nothing")
        archive.writestr("notes.txt", "nothing")
    page.find("#files-input").set_input_files(bundle)
    expect(page.rows).to_have_count(5)
    expect(page.upload("people.zip")).to_contain_text(
        "6 of 6 users, 1 rejected, 1 ignored: see Problems"
    )
    expect(page.find("#task-list")).to_contain_text("people.zip")
    expect(page.find("#task-list")).to_contain_text("6 of 6 users, 1 rejected, 1 ignored")


def test_earlier_version_of_bundle_is_not_shown_as_its_result(
    page: RowdropPage, tmp_path: Path
) -> None:
    """The task of the earlier version is listed until an event names the new one."""
    bundle = tmp_path / "people.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("ada.csv", ADA)
    page.find("#files-input").set_input_files(bundle)
    expect(page.upload("people.zip")).to_contain_text("1 of 1 user")
    body = {"name": "people.zip", "status": "stored", "etag": 32 * "0", "look_at": "/tasks"}
    answers: list[str] = []

    def answer_receipt(route: Route) -> None:
        answers.append("superseded" if len(answers) > 6 else "pending")
        route.fulfill(json={"result": answers[-1], "reason": "a newer version was dropped"})

    page.tab.route("**/files/people.zip?wait=*", lambda route: route.fulfill(status=202, json=body))
    page.tab.route(f"**/files/people.zip/receipt?etag={32 * '0'}", answer_receipt)
    page.find("#files-input").set_input_files(bundle)
    expect(page.upload("people.zip")).to_contain_text("superseded")
    assert answers.count("superseded") == 1


def test_member_of_bundle_is_replaced_by_a_file_of_its_own(
    page: RowdropPage, s3: Minio, tmp_path: Path
) -> None:
    bundle = tmp_path / "people.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("ada.csv", "nothing\n")
        archive.writestr("bob.csv", ADA)
    page.find("#files-input").set_input_files(bundle)
    problem = page.problem("people.zip#ada.csv")
    expect(problem.get_by_role("button", name="Read again")).to_be_visible()
    expect(problem.get_by_role("button", name="Delete")).to_have_count(0)
    replace = problem.get_by_role("button", name="Replace")
    page.choose_file(replace, "corrected.csv", ADA)
    page.answer("Upload")
    expect(page.row("ada")).to_be_visible()
    expect(page.problem("people.zip")).to_have_count(0)
    names = [each.object_name for each in s3.list_objects("src-data")]
    assert names == ["ada.csv", "people.zip"]
    page.row("bob").click()
    expect(page.find("#detail")).to_contain_text("people.zip#bob.csv")
    expect(page.find("#detail")).to_contain_text("Its values are from the bundle people.zip.")
    expect(page.button("Read again").last).to_be_visible()
    expect(page.button("Delete this row")).to_be_hidden()  # the bundle has its file
    page.button("Close").click()
    page.row("ada").click()
    expect(page.button("Delete this row")).to_be_visible()
    page.button("Close").click()
    # It is not offered for another row before the files of that row are known.
    page.tab.route("**/files?limit=1000*", lambda _: None)
    with page.tab.expect_request("**/files?limit=1000*"):
        page.row("bob").click()
    expect(page.button("Delete this row")).to_be_hidden()
    page.tab.unroute("**/files?limit=1000*")
    page.button("Close").click()
    # Without a file of its own the invalid member counts again, and the row is held.
    page.row("ada").click()
    page.button("Delete this row").click()
    expect(page.find("dialog.ask")).to_contain_text("If a bundle has files of the same name")
    page.answer("Delete")
    detail = page.find("#detail")
    expect(detail).to_contain_text("because people.zip#ada.csv is rejected")
    expect(detail).not_to_contain_text("Made from")


def test_suspicious_row_is_a_problem_without_a_time(page: RowdropPage) -> None:
    page.drop(("ada.csv", f"{HEADER}Ada,Lovelace,946674001\n"))
    expect(page.problem("ada.csv")).to_contain_text("are these seconds?")
    expect(page.problem("ada.csv")).not_to_contain_text(" ago")


def test_folder_of_200_files_becomes_200_rows(open_tab: OpenPage, tmp_path: Path) -> None:
    for number in range(200):
        file = tmp_path / "people" / f"{number % 10}" / f"{number:04}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(ADA)
    (tmp_path / "people" / ".git").mkdir()
    (tmp_path / "people" / ".git" / "x.csv").write_text(ADA)
    page = open_tab()
    page.find("#folder-input").set_input_files(tmp_path / "people")
    expect(page.find("#upload-summary")).to_have_text(
        "200 of 200 files uploaded, 1 hidden file skipped", timeout=60_000
    )
    expect(page.find("#row-count")).to_have_text("200")
