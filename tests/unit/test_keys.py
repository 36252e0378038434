"""Tests of `shared.keys`: the classification of keys and of members of bundles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import (
    IMAGE_EXTENSIONS,
    Bundle,
    Ignored,
    UserFile,
    bundle_id,
    bundle_key,
    classify,
    classify_member,
    csv_key,
    image_key,
    newest_image,
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
    ],
)
def test_the_user_id_is_the_name_before_the_last_dot_as_it_is_written(key: str, user_id: str, extension: str) -> None:
    assert classify(key) == UserFile(user_id, extension)


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
        ("1.csv ", "neither a .csv nor an image"),
        ("1.", "neither a .csv nor an image"),
        ("", "neither a .csv nor an image"),
        ("1\n.csv", "control character"),
        ("1\x00.csv", "control character"),
        ("1\x7f.png", "control character"),
        ("folder/1\t.csv", "control character"),
    ],
)
def test_any_other_key_is_ignored_with_a_reason_for_the_person_who_dropped_it(key: str, reason: str) -> None:
    ignored = classify(key)
    assert isinstance(ignored, Ignored)
    assert reason in ignored.reason


@given(st.text())
def test_every_key_is_answered_and_a_reason_is_one_line(key: str) -> None:
    match classify(key):
        case UserFile(user_id, extension):
            assert f"{user_id}.{extension}" == key
        case Bundle(name):
            assert name == key
        case Ignored(reason):
            assert "\n" not in reason
            assert "\r" not in reason


@pytest.mark.parametrize("user_id", ["1", "a.b", ".", "1.csv", "ü"])
def test_a_users_keys_are_that_users_files(user_id: str) -> None:
    csv = classify(csv_key(user_id))
    assert csv == UserFile(user_id, "csv")
    assert isinstance(csv, UserFile)
    assert csv.is_csv
    for extension in IMAGE_EXTENSIONS:
        image = classify(image_key(user_id, extension))
        assert image == UserFile(user_id, extension)
        assert isinstance(image, UserFile)
        assert not image.is_csv


@pytest.mark.parametrize("key", ["u.zip", "u.tar", "u.tar.gz", "u.tgz", "1.csv.zip", "U.B.zip", " .zip"])
def test_an_archive_is_a_bundle(key: str) -> None:
    assert classify(key) == Bundle(key)


@given(st.text())
def test_no_user_has_the_id_of_a_bundle(key: str) -> None:
    assert bundle_key(bundle_id(key)) == key
    assert isinstance(classify(csv_key(bundle_id(key))), Ignored)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("1.csv", UserFile("1", "csv")),
        ("a/b/0001.jpeg", UserFile("0001", "jpeg")),
        ("./1.png", UserFile("1", "png")),
        ("in/u.zip", Bundle("u.zip")),
        ("__MACOSX/a/._1.csv", None),
        ("a/._1.csv", None),
        (".DS_Store", None),
        ("a/Thumbs.db", None),
    ],
)
def test_a_member_of_a_bundle_is_named_by_the_end_of_its_path(path: str, file: UserFile | Bundle | None) -> None:
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
def test_what_nobody_could_drop_by_itself_is_ignored_in_a_bundle(path: str, reason: str) -> None:
    ignored = classify_member(path)
    assert isinstance(ignored, Ignored)
    assert reason in ignored.reason


def test_no_image_is_the_newest_of_none() -> None:
    assert newest_image([]) is None


def test_the_image_modified_last_counts() -> None:
    assert newest_image([("1.png", 7), ("1.jpeg", 9), ("1.jpg", 8)]) == "1.jpeg"


def test_of_images_of_the_same_second_png_goes_before_jpg_before_jpeg() -> None:
    assert newest_image([("1.jpeg", 7), ("1.jpg", 7), ("1.png", 7)]) == "1.png"
    assert newest_image([("1.jpeg", 7), ("1.jpg", 7), ("1.png", 6)]) == "1.jpg"
