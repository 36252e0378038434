"""The snapshot: an updated table equals one that is parsed as a whole, and its JSON the rows."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answers.formats import encode_json_array
from api.snapshot.caches import LruCache
from api.snapshot.table import EMPTY_TABLE, SnapshotTable
from shared.formats.output_csv import OUTPUT_HEADER, InvalidOutputCsv, encode_row
from shared.formats.records import Row

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)
tables = st.dictionaries(
    st.text('0123456789",é\U0001f600', min_size=1, max_size=4),
    st.tuples(texts, texts, st.integers(-62135596800000, 253402300799999), texts),
    max_size=30,
).map(lambda users: [Row(user_id, *rest) for user_id, rest in sorted(users.items())])


def body(rows: list[Row]) -> bytes:
    return OUTPUT_HEADER + b"".join(map(encode_row, rows))


def make_many_rows(count: int) -> list[Row]:
    return [
        Row(f"{n:06}", f"Zoë{n}", "O'Neil", n * 1000, f"src-data/{n:06}.png" if n % 3 else "")
        for n in range(count)
    ]


def make_expected_object(row: Row) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "first_name": row.first_name,
        "last_name": row.last_name,
        "birthts": row.birthts,
        "img_path": row.img_path or None,
    }


def are_equal(one: SnapshotTable, other: SnapshotTable) -> bool:
    return (
        one.json == other.json
        and np.array_equal(one.birthts, other.birthts)
        and np.array_equal(one.birthday, other.birthday)
        and np.array_equal(one.has_image, other.has_image)
    )


@given(tables)
def test_table_json_matches_rows(rows: list[Row]) -> None:
    assert json.loads(EMPTY_TABLE.build_next_version(body(rows), "e").json) == [
        make_expected_object(row) for row in rows
    ]


@given(st.lists(tables, min_size=2, max_size=4))
def test_table_update_equals_full_read(versions: list[list[Row]]) -> None:
    table = EMPTY_TABLE
    for rows in versions:
        table = table.build_next_version(body(rows), "e")
        assert are_equal(table, EMPTY_TABLE.build_next_version(body(rows), "e"))


def test_table_update_handles_many_changes() -> None:
    rows = make_many_rows(6000)
    table = EMPTY_TABLE.build_next_version(body(rows), "0")
    for step in range(1, 6):
        for n in range(7, len(rows), 900 * step):
            rows[n] = Row(rows[n].user_id, f"step {step}", rows[n].last_name, rows[n].birthts, "")
        rows = [row for n, row in enumerate(rows) if n % 2500 != step]
        rows.append(Row(f"9{step}", "new", "", 0, ""))
        table = table.build_next_version(body(rows), str(step))
        assert are_equal(table, EMPTY_TABLE.build_next_version(body(rows), "x"))
        assert table.row_count == len(rows)


def test_table_json_does_not_escape_unicode() -> None:
    assert "Zoë0".encode() in EMPTY_TABLE.build_next_version(body(make_many_rows(1)), "e").json


def test_table_without_rows_is_empty_array() -> None:
    assert json.loads(EMPTY_TABLE.build_next_version(OUTPUT_HEADER, "e").json) == []
    table = EMPTY_TABLE.build_next_version(body(make_many_rows(3)), "e")
    assert json.loads(table.build_next_version(OUTPUT_HEADER, "f").json) == []


@given(tables, st.data())
def test_table_select_json_returns_masked_rows_in_order(
    rows: list[Row], data: st.DataObject
) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    table = EMPTY_TABLE.build_next_version(body(rows), "e")
    selected = json.loads(
        encode_json_array(table.select_json(np.flatnonzero(np.array(mask, np.bool_))))
    )
    assert selected == [
        make_expected_object(row)
        for row, is_selected in zip(rows, mask, strict=True)
        if is_selected
    ]


@pytest.mark.parametrize("count", [3, 3000])
@pytest.mark.parametrize(
    "invalid_part",
    [b"", b"x,y\n", b"\n", b"a,b,c,d,e\n", b"\xff,b,c,1,e\n", b"a,b,c,1,e", b"1,a\rb,c,1,e\n"],
)
def test_table_update_refuses_invalid_output_unchanged(count: int, invalid_part: bytes) -> None:
    table = EMPTY_TABLE.build_next_version(body(make_many_rows(count)), "e")
    before = table.json
    with pytest.raises(InvalidOutputCsv):
        table.build_next_version(
            body(make_many_rows(count)) + invalid_part if invalid_part else invalid_part, "f"
        )
    with pytest.raises(InvalidOutputCsv):
        EMPTY_TABLE.build_next_version(
            body(make_many_rows(count)) + invalid_part if invalid_part else invalid_part, "f"
        )
    assert table.json is before


def test_table_has_row_finds_existing_users() -> None:
    rows = [Row(user_id, "", "", 0, "") for user_id in sorted(['a"b', "a,b", "01", "é"])]
    table = EMPTY_TABLE.build_next_version(body(rows), "e")
    assert all(table.has_row(row.user_id) for row in rows)
    assert not table.has_row("1")


def test_lru_cache_removes_least_recently_used_first() -> None:
    answers = LruCache(max_weight=10)
    answers.put("a", b"aaaa", 4)
    answers.put("b", b"bbbb", 4)
    assert answers.get("a") == b"aaaa"
    answers.put("c", b"cccc", 4)
    assert (answers.get("a"), answers.get("b"), answers.get("c")) == (b"aaaa", None, b"cccc")


def test_lru_cache_refuses_oversized_value() -> None:
    answers = LruCache(max_weight=10)
    answers.put("a", b"aaaa", 4)
    answers.put("b", b"b" * 11, 11)
    assert (answers.get("a"), answers.get("b")) == (b"aaaa", None)


def test_table_json_has_one_line_per_row() -> None:
    lines = EMPTY_TABLE.build_next_version(body(make_many_rows(50)), "e").json.splitlines()
    assert len(lines) == 50
    assert all(first < second for first, second in pairwise(line.lstrip(b"[") for line in lines))
