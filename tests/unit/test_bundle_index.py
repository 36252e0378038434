"""The index of a bundle and the bundle catalog."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.formats.bundle_catalog import ATTEMPTS_EXHAUSTED_REASON, BundleCatalog, CatalogEntry
from shared.formats.records import (
    PREVIOUS_VERSION_KEPT,
    CsvResult,
    CsvVersion,
    InvalidCsv,
    Person,
    ValidCsv,
)
from shared.formats.source_keys import (
    IMAGE_EXTENSIONS,
    IgnoredFile,
    classify_key,
    format_member_source,
    make_csv_key,
)
from tests.factories import LAST_MODIFIED, make_person
from worker.bundles.catalog import DEFAULT_RULES, BundleRules, schedule_retry
from worker.bundles.index import (
    INDEX_HEADER,
    OLD_INDEX_HEADER,
    OLD_REASON,
    BundleImage,
    BundleIndex,
    IndexBuilder,
    InvalidIndex,
    UserFilter,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
USER_IDS = TEXT.filter(
    lambda user_id: not isinstance(classify_key(make_csv_key(user_id)), IgnoredFile)
)
CSVS = st.one_of(
    st.none(),
    st.builds(Person, TEXT, TEXT, st.integers(-(10**14), 10**14)),
    st.tuples(TEXT, st.none() | st.integers(1, 9)),
)
IMAGES = st.none() | st.builds(BundleImage, TEXT, TEXT, st.sampled_from(IMAGE_EXTENSIONS))
Files = Mapping[str, tuple[Person | tuple[str, int | None] | None, BundleImage | None]]


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
    return BundleIndex("u.zip", LAST_MODIFIED, builder.encode())


@given(st.dictionaries(USER_IDS, st.tuples(CSVS, IMAGES)), USER_IDS)
def test_bundle_index_finds_only_existing_members(files: Files, other_id: str) -> None:
    index = index_of(files)
    existing_ids = {user_id for user_id, parts in files.items() if any(parts)}
    assert list(index.user_ids()) == sorted(existing_ids)
    for user_id in {*files, other_id}:
        csv, image = files.get(user_id, (None, None))
        source = format_member_source("u.zip", f"in/{user_id}.csv")
        version = CsvVersion(source, "etag", LAST_MODIFIED)
        expected: CsvResult = None
        if isinstance(csv, Person):
            expected = ValidCsv(version, csv)
        elif csv is not None:
            expected = InvalidCsv(version, *csv)
        assert index.find_csv(user_id) == expected
        assert index.find_image(user_id) == image
    assert {user_id: (csv, image) for user_id, csv, image in index.iterate_users()} == {
        user_id: (index.find_csv(user_id), index.find_image(user_id)) for user_id in existing_ids
    }


@given(st.dictionaries(USER_IDS, st.tuples(CSVS, IMAGES)), USER_IDS)
def test_user_filter_knows_who_has_csv_and_image(files: Files, other_id: str) -> None:
    user_filter = UserFilter(index_of(files))
    for user_id in {*files, other_id}:
        csv, image = files.get(user_id, (None, None))
        assert user_filter.may_have_csv(user_id) == (csv is not None)
        assert user_filter.may_have_image(user_id) == (image is not None)


def test_index_builder_keeps_last_csv_and_preferred_image() -> None:
    builder = IndexBuilder()
    for name in ("First", "Second"):
        builder.add_csv("1", f"{name}.csv", ValidCsv(CsvVersion("", name, 0), make_person(name)))
    added = [builder.add_image("1", BundleImage(path, path, path.rpartition(".")[2])) for path in
             ("a.jpg", "a.png", "b.png", "a.jpeg")]  # fmt: skip
    assert added == [True, True, True, False]
    index = BundleIndex("u.zip", LAST_MODIFIED, builder.encode())
    csv = index.find_csv("1")
    image = index.find_image("1")
    assert isinstance(csv, ValidCsv)
    assert csv.person.first_name == "Second"
    assert image is not None
    assert image.path == "b.png"


@pytest.mark.parametrize("body", [b"", b"x", INDEX_HEADER[:-1], INDEX_HEADER + b"1\t[null,"])
def test_bundle_index_refuses_other_bytes(body: bytes) -> None:
    with pytest.raises(InvalidIndex):
        BundleIndex("u.zip", LAST_MODIFIED, body)


def test_bundle_index_of_earlier_release_hides_reasons() -> None:
    """They quoted the CSVs, and the index stays if the archive of that version is gone."""
    body = index_of({"1": (("found: DE89", 2), None), "2": (make_person(), None)}).body
    index = BundleIndex("u.zip", 0, OLD_INDEX_HEADER + body[len(INDEX_HEADER) :])
    csv = index.find_csv("1")
    assert isinstance(csv, InvalidCsv)
    assert (csv.reason, csv.line) == (OLD_REASON, 2)
    assert isinstance(index.find_csv("2"), ValidCsv)


# -- the bundle catalog ----------------------------------------------------------------------------
def make_entry(since: int, *, reason: str = "", key: str = "u.zip") -> CatalogEntry:
    return CatalogEntry("etag", since, DEFAULT_RULES.make_digest(key, "etag"), since, reason=reason)


def test_bundle_catalog_orders_bundles_by_time_then_name() -> None:
    catalog = BundleCatalog(
        {
            "b": make_entry(7),
            "a": make_entry(7),
            "new": make_entry(9),
            "none": CatalogEntry("e", 8, "", reason="broken"),
        }
    )
    assert [key for key, _ in catalog.visible_entries()] == ["new", "a", "b"]


def test_bundle_catalog_decodes_its_bytes() -> None:
    catalog = BundleCatalog({"ü.zip": make_entry(7, reason="why")})
    assert BundleCatalog.decode(catalog.encode("a")) == catalog
    assert catalog.encode("a") != catalog.encode("b")
    assert catalog.with_entry("ü.zip", None) == BundleCatalog()
    nested_body = 100_000 * b"["
    invalid_entry = b'{"bundles": {"a": {"no": 1}}}'
    for invalid_body in (b"", b"{}", b"[]", invalid_entry, b'{"bundles": 7}', nested_body):
        assert BundleCatalog.decode(invalid_body) == BundleCatalog()


def make_given_up(retries: int = 0, retry_at: int = 0) -> CatalogEntry:
    reason = ATTEMPTS_EXHAUSTED_REASON + PREVIOUS_VERSION_KEPT
    return CatalogEntry("etag", 7, "", reason=reason, retries=retries, retry_at=retry_at)


def test_bundle_catalog_rations_retries() -> None:
    """Those with the fewest failed retries are first, and at most three of those that are due."""
    catalog = BundleCatalog(
        {
            "often.zip": make_given_up(3, 10),
            "later.zip": make_given_up(0, 101),
            "b.zip": make_given_up(1, 20),
            "a.zip": make_given_up(1, 30),
            "new.zip": make_given_up(),
            "other.zip": make_entry(7, reason="broken"),
        }
    )
    assert catalog.find_due_retries(100) == ["new.zip", "b.zip", "a.zip"]
    assert catalog.with_entry("b.zip", None).find_due_retries(100)[2] == "often.zip"
    assert catalog.find_due_retries(25) == ["new.zip", "b.zip", "often.zip"]


def test_schedule_retry_doubles_pause_up_to_a_day() -> None:
    entry = schedule_retry(make_given_up(), make_entry(7), 1000.0)
    assert (entry.retries, entry.retry_at) == (0, 0)
    pauses = []
    for _ in range(2000):
        entry = schedule_retry(make_given_up(), entry, 1000.0)
        pauses.append((entry.retry_at - 1000) / 3600)
    assert pauses[:6] == [1, 2, 4, 8, 16, 24]
    assert pauses[-1] == 24
    other_version = replace(make_given_up(), etag="other")
    assert schedule_retry(other_version, entry, 1000.0).retry_at == 0


def test_bundle_catalog_decodes_entry_of_earlier_release() -> None:
    fields = {"etag": "e", "since": 7, "digest": "", "reason": "broken"}
    body = json.dumps({"bundles": {"u.zip": fields}, "nonce": "n"}).encode()
    assert BundleCatalog.decode(body).entries["u.zip"].rules == "1"


def test_is_up_to_date_compares_archive_version() -> None:
    by_these_rules = CatalogEntry("etag", 7, "", reason="broken", rules=DEFAULT_RULES.version)
    assert DEFAULT_RULES.is_up_to_date("u.zip", make_entry(7), ("etag", 7))
    assert DEFAULT_RULES.is_up_to_date("u.zip", None, None)
    assert DEFAULT_RULES.is_up_to_date("u.zip", by_these_rules, ("etag", 7))
    by_old_rules = CatalogEntry("etag", 7, "", reason="broken", rules="1")
    assert not DEFAULT_RULES.is_up_to_date("u.zip", by_old_rules, ("etag", 7))
    for other in (None, ("etag", 8), ("another", 7)):
        assert not DEFAULT_RULES.is_up_to_date("u.zip", make_entry(7), other)
    assert not DEFAULT_RULES.is_up_to_date("u.zip", None, ("etag", 7))
    assert not DEFAULT_RULES.is_up_to_date(
        "u.zip", make_entry(7, key="made by other rules"), ("etag", 7)
    )


def test_bundle_rules_depend_on_codec_of_names() -> None:
    """Another value of ZIP_NAMES reads bundles and rejects again."""
    rules = BundleRules("cp866")
    unpacked = CatalogEntry("etag", 7, rules.make_digest("u.zip", "etag"), 7)
    rejected = CatalogEntry("etag", 7, "", reason="broken", rules=rules.version)
    for entry in (unpacked, rejected):
        assert rules.is_up_to_date("u.zip", entry, ("etag", 7))
        for other in (DEFAULT_RULES, BundleRules("cp850")):
            assert not other.is_up_to_date("u.zip", entry, ("etag", 7))
