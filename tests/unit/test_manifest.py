"""Tests of `shared.formats.manifest`: merging, and encoding and decoding of facts."""

import contextlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.formats.manifest import Fact, InvalidManifest, Manifest
from shared.formats.records import RULES_VERSION, Buckets, CsvVersion, Person
from tests.factories import ETAG, make_fact, make_row

BUCKETS = Buckets("src-data", "processed-data")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FACTS = st.dictionaries(
    TEXT,
    st.tuples(
        st.builds(CsvVersion, TEXT.map(lambda name: f"{name}.csv"), TEXT, st.integers(0, 2**40)),
        st.builds(Person, TEXT, TEXT, st.integers(-(10**14), 10**15 - 1)),
        st.none() | TEXT.map(lambda name: f"{name}.png"),
        st.booleans(),
    ),
).map(lambda entries: {user_id: Fact(user_id, *parts) for user_id, parts in entries.items()})
CHANGES = st.dictionaries(TEXT, st.none() | st.just(True)).map(
    lambda entries: {
        user_id: make_fact(user_id) if is_kept else None for user_id, is_kept in entries.items()
    }
)


def manifest_of(*facts: Fact) -> Manifest:
    return Manifest.empty().with_changes({fact.user_id: fact for fact in facts})


def facts_by_user(manifest: Manifest) -> dict[str, Fact]:
    facts = list(manifest.iterate_facts())
    assert len(facts) == len({fact.user_id for fact in facts})
    return {fact.user_id: fact for fact in facts}


def test_manifest_without_facts_is_empty() -> None:
    empty = Manifest.decode(Manifest.empty().encode())
    assert empty.get("1") is None
    assert list(empty.iterate_facts()) == []
    assert list(empty.to_output_rows(BUCKETS)) == []


@given(FACTS)
def test_manifest_decodes_encoded_facts(facts: dict[str, Fact]) -> None:
    manifest = manifest_of(*facts.values())
    assert facts_by_user(Manifest.decode(manifest.encode())) == facts_by_user(manifest) == facts
    for user_id in [*facts, "nobody"]:
        assert manifest.get(user_id) == facts.get(user_id)


@given(FACTS, st.lists(CHANGES, max_size=4))
def test_manifest_with_changes_adds_replaces_and_removes_facts(
    facts: dict[str, Fact], many: list[dict[str, Fact | None]]
) -> None:
    manifest = manifest_of(*facts.values())
    expected = dict(facts)
    for changes in many:
        manifest = manifest.with_changes(changes)
        expected = {user_id: fact for user_id, fact in {**expected, **changes}.items() if fact}
    assert facts_by_user(manifest) == expected
    assert facts_by_user(Manifest.decode(manifest.encode())) == expected


def test_manifest_with_changes_leaves_original_unchanged() -> None:
    old = manifest_of(make_fact("1"), make_fact("2"))
    old.with_changes({"1": None, "2": make_fact("2", held=True), "3": make_fact("3")})
    assert facts_by_user(old) == {"1": make_fact("1"), "2": make_fact("2")}


def test_manifest_with_changes_keeps_one_fact_per_user() -> None:
    manifest = Manifest.empty()
    for number in range(200):
        manifest = manifest.with_changes(
            {str(number % 50): make_fact(str(number % 50), held=number >= 150)}
        )
    assert facts_by_user(manifest) == {
        str(number): make_fact(str(number), held=True) for number in range(50)
    }


def test_manifest_keeps_source_other_than_own_key() -> None:
    bundled = make_fact("1", source="many.zip")
    manifest = Manifest.decode(manifest_of(bundled, make_fact("2")).encode())
    assert facts_by_user(manifest) == {"1": bundled, "2": make_fact("2")}


def test_manifest_to_frame_contains_rules_version() -> None:
    frame = manifest_of(make_fact("1"), make_fact("2", image=None, held=True)).to_frame()
    assert frame["rules"].tolist() == [RULES_VERSION] * 2
    assert frame["csv_etag"].tolist() == [ETAG] * 2
    assert frame["image"].tolist() == ["1.png", ""]
    assert frame["held"].tolist() == [False, True]
    assert frame["birthts"].dtype == frame["csv_since"].dtype == "int64"


def test_manifest_decodes_facts_of_other_rules() -> None:
    table = pq.read_table(pa.BufferReader(manifest_of(make_fact("1")).encode()))
    older = table.set_column(
        table.schema.names.index("rules"), table.schema.field("rules"), [["0"]]
    )
    manifest = Manifest.decode(parquet(older))
    assert manifest.to_frame()["rules"].tolist() == ["0"]
    assert manifest.get("1") == make_fact("1")
    frame = manifest.with_changes({"2": make_fact("2")}).to_frame()
    assert sorted(frame["rules"]) == ["0", RULES_VERSION]


def test_manifest_restores_output_rows() -> None:
    manifest = manifest_of(make_fact("1"), make_fact("2", image=None))
    rows = sorted(manifest.to_output_rows(BUCKETS), key=lambda row: row.user_id)
    assert rows == [make_row("1"), make_row("2", img_path="")]


# -- invalid manifests ---------------------------------------------------------------------------
def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def test_manifest_refuses_other_columns() -> None:
    table = pq.read_table(pa.BufferReader(manifest_of(make_fact("1")).encode()))
    for other in (
        pa.table({"a": [1]}),
        table.drop_columns(["rules"]),
        table.append_column("more", [[1]]),
    ):
        with pytest.raises(InvalidManifest, match="columns"):
            Manifest.decode(parquet(other))


def test_manifest_refuses_two_facts_of_one_user() -> None:
    table = pq.read_table(pa.BufferReader(manifest_of(make_fact("1"), make_fact("2")).encode()))
    with pytest.raises(InvalidManifest, match="two facts"):
        Manifest.decode(parquet(pa.concat_tables([table, table])))


def test_manifest_refuses_text_that_is_not_utf8() -> None:
    body = manifest_of(make_fact("1", person=Person("marker", "b", 1))).encode()
    assert b"marker" in body
    with pytest.raises(InvalidManifest):
        Manifest.decode(body.replace(b"marker", b"\xff\xfe\xff\xfe\xff\xfe"))


@given(st.binary())
def test_manifest_refuses_other_bytes(body: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(body)


@settings(max_examples=300)
@given(st.data())
def test_manifest_with_changed_bytes_raises_only_invalid_manifest(data: st.DataObject) -> None:
    body = bytearray(manifest_of(make_fact("1"), make_fact("2")).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidManifest):
        manifest = Manifest.decode(bytes(body))
        list(manifest.iterate_facts())


@settings(max_examples=50)
@given(st.data())
def test_manifest_refuses_truncated_file(data: st.DataObject) -> None:
    body = manifest_of(make_fact("1"), make_fact("2")).encode()
    with pytest.raises(InvalidManifest):
        Manifest.decode(body[: data.draw(st.integers(0, len(body) - 1))])
