"""Tests of `shared.formats.source_keys`: the classification of keys and of members of bundles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.formats.source_keys import (
    IMAGE_EXTENSIONS,
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    classify_member,
    explain_junk,
    make_bundle_id,
    make_csv_key,
    make_image_key,
    parse_bundle_id,
    parse_member_bundle,
    rank_path,
    select_newest_image,
)


@pytest.mark.parametrize(
    ("key", "user_id", "extension"),
    [
        ("1.csv", "1", "csv"),
        ("0001.csv", "0001", "csv"),
        ("1.png", "1", "png"),
        ("1.jpg", "1", "jpg"),
        ("1.jpeg", "1", "jpeg"),
        ("a.b.csv", "a.b", "csv"),
        ("1.csv.csv", "1.csv", "csv"),
        ("1.png.csv", "1.png", "csv"),
        ("..csv", ".", "csv"),
        (" 1 .csv", " 1 ", "csv"),
        ("CSV.csv", "CSV", "csv"),
        ('a,"b".csv', 'a,"b"', "csv"),
        ("Zoë.csv", "Zoë", "csv"),
        ("Zoe\u0308.csv", "Zoe\u0308", "csv"),
        ("a\u2028b\u0085.csv", "a\u2028b\u0085", "csv"),
        ("a\\b.csv", "a\\b", "csv"),
        (".1.csv", ".1", "csv"),
        ("~1.csv", "~1", "csv"),
        ("#1.csv", "#1", "csv"),
        ("@1.csv", "@1", "csv"),
        ("$1.csv", "$1", "csv"),
    ],
)
def test_classify_key_reads_user_id_before_last_dot(key: str, user_id: str, extension: str) -> None:
    assert classify_key(key) == UserFile(user_id, extension)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("1.CSV", "rename it to 1.csv"),
        ("a.b.Csv", "rename it to a.b.csv"),
        ("1.JPEG", "rename it to 1.jpeg"),
        (".csv", "no user id before .csv"),
        (".PNG", "no user id before .PNG"),
        ("folder/1.csv", "in a folder"),
        ("/1.csv", "in a folder"),
        ("folder/", "in a folder"),
        ("1.txt", "neither a .csv nor an image (.png, .jpg, .jpeg)"),
        ("1.txt.gz", "nor a bundle of them (.zip, .tar, .tar.gz, .tgz)"),
        ("U.Zip", "rename it to U.zip"),
        ("U.Tar.GZ", "rename it to U.tar.gz"),
        (".zip", "neither a .csv nor an image"),
        ("in/u.zip", "in a folder"),
        ("csv", "neither a .csv nor an image"),
        ("1.csv ", "its name ends with a blank; rename it to 1.csv"),
        ("1.png\u00a0 ", "its name ends with a blank; rename it to 1.png"),
        ("u.zip.", "its name ends with a dot; rename it to u.zip"),
        ("1.txt ", "neither a .csv nor an image"),
        ("._1.csv", "macOS writes such a file"),
        ("._1.png", "macOS writes such a file"),
        ("._u.zip", "macOS writes such a file"),
        ("~$1.csv", "Office writes such a file"),
        (".~lock.1.csv", "LibreOffice writes such a file"),
        (".~lock.1.csv#", "LibreOffice writes such a file"),
        ("1.", "neither a .csv nor an image"),
        ("", "neither a .csv nor an image"),
        ("1\n.csv", "control character"),
        ("1\x00.csv", "control character"),
        ("1\x7f.png", "control character"),
        ("folder/1\t.csv", "control character"),
        ("1\ufffe.csv", "contains U+FFFE or U+FFFF"),
        ("\uffff.zip", "contains U+FFFE or U+FFFF"),
        ("..\\1.csv", "'.' or '..' between backslashes"),
        ("a\\ . \\b.zip", "'.' or '..' between backslashes"),
    ],
)
def test_classify_key_explains_ignored_keys(key: str, reason: str) -> None:
    ignored = classify_key(key)
    assert isinstance(ignored, IgnoredFile)
    assert reason in ignored.reason


@given(st.text())
def test_classify_key_answers_any_key_with_one_line_reason(key: str) -> None:
    match classify_key(key):
        case UserFile(user_id, extension):
            assert f"{user_id}.{extension}" == key
        case Bundle(name):
            assert name == key
        case IgnoredFile(reason):
            assert "\n" not in reason
            assert "\r" not in reason


@pytest.mark.parametrize("user_id", ["1", "a.b", ".", "1.csv", "ü", "a\\b", "a\\.", ".."])
def test_classify_key_accepts_keys_made_for_user(user_id: str) -> None:
    csv = classify_key(make_csv_key(user_id))
    assert csv == UserFile(user_id, "csv")
    assert isinstance(csv, UserFile)
    assert csv.is_csv
    for extension in IMAGE_EXTENSIONS:
        image = classify_key(make_image_key(user_id, extension))
        assert image == UserFile(user_id, extension)
        assert isinstance(image, UserFile)
        assert not image.is_csv


@pytest.mark.parametrize(
    "key", ["u.zip", "u.tar", "u.tar.gz", "u.tgz", "1.csv.zip", "U.B.zip", " .zip"]
)
def test_classify_key_returns_bundle_for_archive(key: str) -> None:
    assert classify_key(key) == Bundle(key)


@given(st.text())
def test_make_bundle_id_is_never_a_user_id(key: str) -> None:
    assert parse_bundle_id(make_bundle_id(key)) == key
    assert isinstance(classify_key(make_csv_key(make_bundle_id(key))), IgnoredFile)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("1.csv", UserFile("1", "csv")),
        ("a/b/0001.jpeg", UserFile("0001", "jpeg")),
        ("./1.png", UserFile("1", "png")),
        ("in/u.zip", Bundle("u.zip")),
        ("/share/1.csv", UserFile("1", "csv")),
        ("a:1.csv", UserFile("a:1", "csv")),
        ("C:/1.csv", UserFile("1", "csv")),
        ("a-#1/b@c/x~1.csv", UserFile("x~1", "csv")),
    ],
)
def test_classify_member_uses_last_path_part(path: str, file: UserFile | Bundle) -> None:
    assert classify_member(path) == file


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/notes.txt", "neither a .csv"),
        ("x" * 252 + ".csv", "longer than 255 bytes"),
        ("a\udcff.csv", "not UTF-8"),
        ("a\tb.csv", "control character"),
        ("a/1.CSV", "rename it to 1.csv"),
    ],
)
def test_classify_member_explains_ignored_members(path: str, reason: str) -> None:
    ignored = classify_member(path)
    assert isinstance(ignored, IgnoredFile)
    assert reason in ignored.reason


def test_select_newest_image_of_none_is_none() -> None:
    assert select_newest_image([]) is None


def test_select_newest_image_returns_last_modified() -> None:
    assert select_newest_image([("1.png", 7), ("1.jpeg", 9), ("1.jpg", 8)]) == "1.jpeg"


def test_select_newest_image_prefers_png_then_jpg_then_jpeg() -> None:
    assert select_newest_image([("1.jpeg", 7), ("1.jpg", 7), ("1.png", 7)]) == "1.png"
    assert select_newest_image([("1.jpeg", 7), ("1.jpg", 7), ("1.png", 6)]) == "1.jpg"


@pytest.mark.parametrize(
    "path",
    [
        ".snapshot/1.csv", "a/.AppleDouble/b/1.csv", "~old/1.csv", "#recycle/1.csv", "@eaDir/1.csv",
        "$RECYCLE.BIN/1.csv", "lost+found/1.csv", "System Volume Information/1.csv",
        "system volume information/1.csv", "__MACOSX/1.csv", "__macosx/1.csv", "__pycache__/1.csv",
        "a/node_modules/1.csv", "._1.csv", "a/.1.csv", "~$1.csv", "#1.csv", "@1.csv", "$1.csv",
        ".DS_Store", "a/THUMBS.DB", "/#recycle/1.csv", "./.git/1.csv", "#recycle/u.zip",
    ],
)  # fmt: skip
def test_classify_member_ignores_junk(path: str) -> None:
    ignored = classify_member(path)
    assert isinstance(ignored, IgnoredFile)
    assert ignored.is_junk
    assert explain_junk(path) == ignored.reason


@pytest.mark.parametrize("path", ["Lost+Found/1.csv", "Node_Modules/1.csv", "__PYCACHE__/1.csv"])
def test_classify_member_compares_names_as_their_systems_do(path: str) -> None:
    assert classify_member(path) == UserFile("1", "csv")


def test_rank_path_prefers_top_then_first_by_path() -> None:
    paths = ["b/1.csv", "a/z/1.csv", "./1.csv", "a-b/1.csv", "a/1.csv", "a//b/1.csv"]
    assert sorted(paths, key=rank_path) == [
        "./1.csv", "a-b/1.csv", "a/1.csv", "b/1.csv", "a//b/1.csv", "a/z/1.csv",
    ]  # fmt: skip
    assert rank_path("/a//./1.csv") == rank_path("a/1.csv")


@pytest.mark.parametrize(
    ("source", "bundle"),
    [
        ("u.zip#a/7.csv", "u.zip"),
        ("u.tar.gz#7.csv", "u.tar.gz"),
        ("a#b.zip#7.csv", "a#b.zip"),
        ("u.zip#a#b/7.csv", "u.zip"),
        ("7.csv", None),
        ("a#7.csv", None),
        ("u.zip", None),
    ],
)
def test_parse_member_bundle_returns_bundle_of_member(source: str, bundle: str | None) -> None:
    assert parse_member_bundle(source) == bundle
