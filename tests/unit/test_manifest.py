"""Tests of `shared.manifest`: merging, and encoding and decoding of facts."""

import contextlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.manifest import Fact, InvalidManifest, Manifest
from shared.records import RULES_VERSION, Buckets, CsvVersion, Person
from tests.factories import ETAG, fact, row

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
).map(lambda found: {user_id: Fact(user_id, *parts) for user_id, parts in found.items()})
CHANGES = st.dictionaries(TEXT, st.none() | st.just(True)).map(
    lambda found: {user_id: fact(user_id) if kept else None for user_id, kept in found.items()}
)


def manifest_of(*facts: Fact) -> Manifest:
    return Manifest.empty().merged({found.user_id: found for found in facts})


def held_by(manifest: Manifest) -> dict[str, Fact]:
    facts = list(manifest.facts())
    assert len(facts) == len(manifest) == len({found.user_id for found in facts})
    return {found.user_id: found for found in facts}


def test_an_empty_manifest_has_no_facts() -> None:
    empty = Manifest.decode(Manifest.empty().encode())
    assert len(empty) == 0
    assert empty.get("1") is None
    assert list(empty.facts()) == []
    assert list(empty.to_output_rows(BUCKETS)) == []


@given(FACTS)
def test_facts_are_read_as_they_were_written(facts: dict[str, Fact]) -> None:
    manifest = manifest_of(*facts.values())
    assert held_by(Manifest.decode(manifest.encode())) == held_by(manifest) == facts
    for user_id in [*facts, "nobody"]:
        assert manifest.get(user_id) == facts.get(user_id)


@given(FACTS, st.lists(CHANGES, max_size=4))
def test_changes_replace_add_and_take_away(facts: dict[str, Fact], many: list[dict[str, Fact | None]]) -> None:
    manifest, expected = manifest_of(*facts.values()), dict(facts)
    for changes in many:
        manifest = manifest.merged(changes)
        expected = {user_id: found for user_id, found in {**expected, **changes}.items() if found}
    assert held_by(manifest) == expected
    assert held_by(Manifest.decode(manifest.encode())) == expected


def test_a_merge_leaves_the_old_manifest_as_it_was() -> None:
    old = manifest_of(fact("1"), fact("2"))
    old.merged({"1": None, "2": fact("2", held=True), "3": fact("3")})
    assert held_by(old) == {"1": fact("1"), "2": fact("2")}


def test_after_many_merges_there_is_still_one_fact_a_user() -> None:
    manifest = Manifest.empty()
    for number in range(200):
        manifest = manifest.merged({str(number % 50): fact(str(number % 50), held=number >= 150)})
    assert held_by(manifest) == {str(number): fact(str(number), held=True) for number in range(50)}


def test_a_source_that_is_not_the_users_own_key_is_kept() -> None:
    bundled = fact("1", source="many.zip")
    assert held_by(Manifest.decode(manifest_of(bundled, fact("2")).encode())) == {"1": bundled, "2": fact("2")}


def test_the_columns_say_of_which_rules_each_fact_is() -> None:
    frame = manifest_of(fact("1"), fact("2", image=None, held=True)).frame()
    assert frame["rules"].tolist() == [RULES_VERSION] * 2
    assert frame["csv_etag"].tolist() == [ETAG] * 2
    assert frame["image"].tolist() == ["1.png", ""]
    assert frame["held"].tolist() == [False, True]
    assert frame["birthts"].dtype == frame["csv_since"].dtype == "int64"


def test_facts_of_other_rules_stay_readable() -> None:
    table = pq.read_table(pa.BufferReader(manifest_of(fact("1")).encode()))
    older = table.set_column(table.schema.names.index("rules"), table.schema.field("rules"), [["0"]])
    manifest = Manifest.decode(parquet(older))
    assert manifest.frame()["rules"].tolist() == ["0"]
    assert manifest.get("1") == fact("1")
    assert sorted(manifest.merged({"2": fact("2")}).frame()["rules"]) == ["0", RULES_VERSION]


def test_a_lost_table_is_made_of_the_facts() -> None:
    manifest = manifest_of(fact("1"), fact("2", image=None))
    assert sorted(manifest.to_output_rows(BUCKETS), key=lambda found: found.user_id) == [
        row("1"),
        row("2", img_path=""),
    ]


# -- invalid manifests ---------------------------------------------------------------------------
def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def test_another_table_is_refused() -> None:
    ours = pq.read_table(pa.BufferReader(manifest_of(fact("1")).encode()))
    for other in (pa.table({"a": [1]}), ours.drop_columns(["rules"]), ours.append_column("more", [[1]])):
        with pytest.raises(InvalidManifest, match="columns"):
            Manifest.decode(parquet(other))


def test_two_facts_of_one_user_are_refused() -> None:
    ours = pq.read_table(pa.BufferReader(manifest_of(fact("1"), fact("2")).encode()))
    with pytest.raises(InvalidManifest, match="two facts"):
        Manifest.decode(parquet(pa.concat_tables([ours, ours])))


def test_text_that_is_not_utf_8_is_refused() -> None:
    body = manifest_of(fact("1", names=Person("marker", "b", 1))).encode()
    assert b"marker" in body
    with pytest.raises(InvalidManifest):
        Manifest.decode(body.replace(b"marker", b"\xff\xfe\xff\xfe\xff\xfe"))


@given(st.binary())
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(body)


@settings(max_examples=300)
@given(st.data())
def test_a_manifest_with_some_bytes_changed_raises_nothing_but_the_refusal(data: st.DataObject) -> None:
    body = bytearray(manifest_of(fact("1"), fact("2")).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidManifest):
        manifest = Manifest.decode(bytes(body))
        assert len(list(manifest.facts())) == len(manifest)


@settings(max_examples=50)
@given(st.data())
def test_a_manifest_that_is_cut_is_refused(data: st.DataObject) -> None:
    body = manifest_of(fact("1"), fact("2")).encode()
    with pytest.raises(InvalidManifest):
        Manifest.decode(body[: data.draw(st.integers(0, len(body) - 1))])
