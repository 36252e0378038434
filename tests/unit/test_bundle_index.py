"""The index of a bundle and the bundle catalog."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import IMAGE_EXTENSIONS, Ignored, classify, csv_key
from shared.records import CsvVersion, InvalidCsv, Person, ValidCsv
from tests.factories import SINCE, person
from worker.bundle_index import HEADER, BundleIndex, IndexBuilder, InvalidIndex, MemberImage
from worker.shelf import Shelf, Shelved, digest_of, is_up_to_date

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
USER_IDS = TEXT.filter(lambda user_id: not isinstance(classify(csv_key(user_id)), Ignored))
CSVS = st.one_of(
    st.none(),
    st.builds(Person, TEXT, TEXT, st.integers(-(10**14), 10**14)),
    st.tuples(TEXT, st.none() | st.integers(1, 9)),
)
IMAGES = st.none() | st.builds(MemberImage, TEXT, TEXT, st.sampled_from(IMAGE_EXTENSIONS))
Files = Mapping[str, tuple[Person | tuple[str, int | None] | None, MemberImage | None]]


def index_of(files: Files) -> BundleIndex:
    """Return the index of a bundle with these CSVs and images."""
    builder = IndexBuilder()
    for user_id, (csv, image) in files.items():
        version = CsvVersion("ignored", "etag", 0)
        match csv:
            case Person():
                builder.add_csv(user_id, f"in/{user_id}.csv", ValidCsv(version, csv))
            case reason, line:
                builder.add_csv(user_id, f"in/{user_id}.csv", InvalidCsv(version, reason, line))
        if image:
            builder.add_image(user_id, image)
    return BundleIndex("u.zip", SINCE, builder.encode())


@given(st.dictionaries(USER_IDS, st.tuples(CSVS, IMAGES)), USER_IDS)
def test_everyone_is_found_with_what_the_bundle_has_and_nobody_else(files: Files, nobody: str) -> None:
    index = index_of(files)
    there = {user_id for user_id, parts in files.items() if any(parts)}
    assert list(index.users()) == sorted(there)
    for user_id in {*files, nobody}:
        csv, image = files.get(user_id, (None, None))
        version = CsvVersion(f"u.zip#in/{user_id}.csv", "etag", SINCE)
        expected = (
            None if csv is None else ValidCsv(version, csv) if isinstance(csv, Person) else InvalidCsv(version, *csv)
        )
        assert index.csv(user_id) == expected
        assert index.image(user_id) == image
    assert {user_id: (csv, image) for user_id, csv, image in index.entries()} == {
        user_id: (index.csv(user_id), index.image(user_id)) for user_id in there
    }


def test_of_two_files_of_one_user_the_later_counts_but_of_images_first_the_kind() -> None:
    builder = IndexBuilder()
    for name in ("First", "Second"):
        builder.add_csv("1", f"{name}.csv", ValidCsv(CsvVersion("", name, 0), person(name)))
    added = [builder.add_image("1", MemberImage(path, path, path.rpartition(".")[2])) for path in
             ("a.jpg", "a.png", "b.png", "a.jpeg")]  # fmt: skip
    assert added == [True, True, True, False]
    index = BundleIndex("u.zip", SINCE, builder.encode())
    csv, image = index.csv("1"), index.image("1")
    assert isinstance(csv, ValidCsv)
    assert csv.person.first_name == "Second"
    assert image is not None
    assert image.path == "b.png"


@pytest.mark.parametrize("body", [b"", b"x", HEADER[:-1], HEADER + b"1\t[null,"])
def test_other_bytes_are_no_index(body: bytes) -> None:
    with pytest.raises(InvalidIndex):
        BundleIndex("u.zip", SINCE, body)


# -- the bundle catalog ----------------------------------------------------------------------------
def shelved(since: int, *, reason: str = "", key: str = "u.zip") -> Shelved:
    return Shelved("etag", since, digest_of(key, "etag"), since, reason=reason)


def test_the_bundle_dropped_last_comes_first_then_the_first_by_name() -> None:
    shelf = Shelf({"b": shelved(7), "a": shelved(7), "new": shelved(9), "none": Shelved("e", 8, "", reason="broken")})
    assert [key for key, _ in shelf.visible()] == ["new", "a", "b"]


def test_a_shelf_is_read_back_and_no_two_are_the_same_bytes() -> None:
    shelf = Shelf({"ü.zip": shelved(7, reason="why")})
    assert Shelf.decode(shelf.encode()) == shelf
    assert shelf.encode() != shelf.encode()
    assert shelf.replace("ü.zip", None) == Shelf()
    for nonsense in (b"", b"{}", b"[]", b'{"bundles": {"a": {"no": 1}}}', b'{"bundles": 7}'):
        assert Shelf.decode(nonsense) == Shelf()


def test_a_bundle_is_up_to_date_if_its_archive_is_the_one_that_was_looked_at() -> None:
    assert is_up_to_date("u.zip", shelved(7), ("etag", 7))
    assert is_up_to_date("u.zip", None, None)
    assert is_up_to_date("u.zip", Shelved("etag", 7, "", reason="broken"), ("etag", 7))
    for other in (None, ("etag", 8), ("another", 7)):
        assert not is_up_to_date("u.zip", shelved(7), other)
    assert not is_up_to_date("u.zip", None, ("etag", 7))
    assert not is_up_to_date("u.zip", shelved(7, key="made by other rules"), ("etag", 7))
